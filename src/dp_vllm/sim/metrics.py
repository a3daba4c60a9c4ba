"""`/metrics`: the engine's counts under vLLM's names, the HTTP side's and the process's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client import Counter as PrometheusCounter
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from dp_vllm.sim.engine import Engine
from dp_vllm.sim.options import Features
from dp_vllm.sim.stats import Histogram

_SILENT: Final = frozenset({"/metrics", "/health", "/load", "/ping", "/version", "/server_info"})
"""Routes that vLLM does not count."""
_LABELS: Final = ["engine", "model_name"]


class HttpMetrics:
    """Requests by route, method and class of status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["handler", "method", "status"]
        self._requests = PrometheusCounter(
            "http_requests", "Total number of requests by method, status and handler.", labels, registry=registry
        )
        self._seconds = PrometheusHistogram(
            "http_request_duration_seconds",
            "Latency with only few buckets by handler.",
            ["handler", "method"],
            buckets=(0.1, 0.5, 1.0),
            registry=registry,
        )

    def count(self, handler: str, method: str, status: int, seconds: float) -> None:
        """One request was answered; `handler` is its route, or `none`."""
        if handler not in _SILENT:
            self._requests.labels(handler, method, f"{status // 100}xx").inc()
            self._seconds.labels(handler, method).observe(seconds)


class EngineMetrics(Collector):
    """Reads the engine's state at the moment of a scrape."""

    def __init__(self, engine: Engine, model: str, max_adapters: int) -> None:
        """`max_adapters`: 0 for an engine without LoRA."""
        self._engine = engine
        self._labels = ["0", model]
        self._max_adapters = max_adapters

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        yield from self._counters()
        yield from self._histograms()

    def _gauges(self) -> Iterator[Metric]:
        engine, stats = self._engine, self._engine.stats
        waiting = len(engine.waiting)
        yield self._gauge("num_requests_running", "Number of requests in model execution batches.", len(engine.running))
        yield self._gauge("num_requests_waiting", "Number of requests waiting to be processed.", waiting)
        by_reason = GaugeMetricFamily(
            "vllm:num_requests_waiting_by_reason", "Number of waiting requests by reason.", labels=[*_LABELS, "reason"]
        )
        by_reason.add_metric([*self._labels, "capacity"], waiting)
        by_reason.add_metric([*self._labels, "deferred"], 0)
        yield by_reason
        yield self._gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", engine.cache.usage)
        yield self._cache_config()
        rejections = CounterMetricFamily(
            "vllm:admission_rejections", "Requests refused because of a full queue.", labels=[*_LABELS, "reason"]
        )
        for reason, count in stats.rejected.items():
            rejections.add_metric([*self._labels, reason], count)
        yield rejections
        if self._max_adapters:
            yield self._adapters()

    def _adapters(self) -> Metric:
        """As in vLLM the value is the time, and the labels say which adapters are at work."""
        labels = ["running_lora_adapters", "waiting_lora_adapters", "max_lora"]
        family = GaugeMetricFamily("vllm:lora_requests_info", "Running stats on LoRA requests.", labels=labels)
        names = [
            ",".join(sorted({sequence.adapter for sequence in place if sequence.adapter}))
            for place in (self._engine.running, self._engine.waiting)
        ]
        family.add_metric([*names, str(self._max_adapters)], time.time())
        return family

    def _cache_config(self) -> Metric:
        limits = self._engine.limits
        tokens = limits.blocks * limits.block_size
        values = {
            "engine": "0",
            "block_size": str(limits.block_size),
            "num_gpu_blocks": str(limits.blocks),
            "kv_cache_size_tokens": str(tokens),
            "kv_cache_max_concurrency": f"{tokens / limits.max_model_len:.2f}",
            "enable_prefix_caching": str(limits.prefix_caching),
            "prefix_caching_hash_algo": "xxh3",
            "simulated": "True",
        }
        family = GaugeMetricFamily("vllm:cache_config_info", "Information of the KV cache.", labels=list(values))
        family.add_metric(list(values.values()), 1)
        return family

    def _counters(self) -> Iterator[Metric]:
        stats = self._engine.stats
        for name, text, value in (
            (
                "prefix_cache_queries",
                "Prefix cache queries, in terms of number of queried tokens.",
                stats.prefix_queries,
            ),
            ("prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", stats.prefix_hits),
            ("num_preemptions", "Cumulative number of preemptions from the engine.", stats.preemptions),
            ("prompt_tokens", "Number of prefill tokens processed.", stats.prompt_tokens),
            ("prompt_tokens_cached", "Number of prompt tokens found in the cache.", stats.prompt_tokens_cached),
            ("generation_tokens", "Number of generation tokens processed.", stats.generation_tokens),
        ):
            counter = CounterMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            counter.add_metric(self._labels, value)
            yield counter
        success = CounterMetricFamily(
            "vllm:request_success", "Count of processed requests.", labels=[*_LABELS, "finished_reason"]
        )
        for reason, count in stats.finished.items():
            success.add_metric([*self._labels, reason], count)
        yield success

    def _histograms(self) -> Iterator[Metric]:
        stats = self._engine.stats
        for name, text, histogram in (
            ("time_to_first_token_seconds", "Time to first token in seconds.", stats.time_to_first_token),
            ("inter_token_latency_seconds", "Inter-token latency in seconds.", stats.inter_token_latency),
            (
                "request_time_per_output_token_seconds",
                "Time per output token per request in seconds.",
                stats.time_per_output_token,
            ),
            ("e2e_request_latency_seconds", "E2E request latency in seconds.", stats.e2e_latency),
            ("request_queue_time_seconds", "Time spent in WAITING.", stats.queue_time),
            ("request_prefill_time_seconds", "Time spent in PREFILL.", stats.prefill_time),
            ("request_decode_time_seconds", "Time spent in DECODE.", stats.decode_time),
            ("request_inference_time_seconds", "Time spent in RUNNING.", stats.inference_time),
            ("request_prompt_tokens", "Number of prefill tokens processed.", stats.request_prompt_tokens),
            ("request_generation_tokens", "Number of generation tokens processed.", stats.request_generation_tokens),
            (
                "request_prefill_kv_computed_tokens",
                "New KV tokens computed during prefill, without cached ones.",
                stats.request_prefill_computed,
            ),
            ("iteration_tokens_total", "Number of tokens per engine step.", stats.iteration_tokens),
        ):
            yield self._histogram(name, text, histogram)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", text, labels=_LABELS)
        family.add_metric(self._labels, value)
        return family

    def _histogram(self, name: str, text: str, histogram: Histogram) -> Metric:
        bounds = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        family = HistogramMetricFamily(f"vllm:{name}", text, labels=_LABELS)
        family.add_metric(self._labels, buckets, histogram.total)
        return family


class Metrics:
    """Everything that `/metrics` says."""

    def __init__(self, engine: Engine, model: str, features: Features) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        if features.log_stats:
            self._registry.register(EngineMetrics(engine, model, features.max_loras if features.lora else 0))
        self.http = HttpMetrics(self._registry)

    def text(self) -> web.Response:
        """The exposition."""
        return web.Response(
            body=generate_latest(self._registry),
            headers={"Content-Type": "text/plain; version=1.0.0; charset=utf-8"},
        )
