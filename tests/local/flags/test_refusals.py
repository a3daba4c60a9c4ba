"""Command lines that cannot be, and the sentence that each is refused with."""

import pytest
from local.flags.asked import asked, refused


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "MODEL is missing, for example: dp-vllm serve Qwen/Qwen3-8B -dp 4"),
        ([""], "MODEL is empty (a variable that is not set?), for example: dp-vllm serve Qwen/Qwen3-8B -dp 4"),
        (
            ["--api-key", "secret", "m"],
            "MODEL is missing (--api-key took the words behind it, so put MODEL first), "
            "for example: dp-vllm serve Qwen/Qwen3-8B -dp 4",
        ),
        (
            ["m", "n"],
            "one MODEL is served, not both 'm' and 'n'; if one of them is a flag's value, write --flag=VALUE",
        ),
        (
            ["m", "--model", "n"],
            "one MODEL is served, not both 'm' and 'n'; if one of them is a flag's value, write --flag=VALUE",
        ),
        (["m", "-dp", "0"], "-dp: '0' is not allowed; allowed are whole numbers from 1 on"),
        (["m", "-dp", "1001"], "-dp: '1001' is not allowed; at most 1,000 are allowed"),
        (["m", "-dp", "9" * 20], f"-dp: '{'9' * 20}' is not allowed; at most 1,000 are allowed"),
        (["m", "-dp", "x"], "-dp: 'x' is not allowed; allowed are whole numbers from 1 on"),
        (["m", "--port", "99999"], "--port: '99999' is not allowed; allowed are ports from 1 to 65535"),
        (["m", "--port"], "--port needs a value; one that begins with '-' is written --port=VALUE"),
        (
            ["m", "--shutdown-timeout", "-1"],
            "--shutdown-timeout: '-1' is not allowed; allowed are seconds from 0 to 86400",
        ),
        (
            ["m", "--shutdown-timeout", "nan"],
            "--shutdown-timeout: 'nan' is not allowed; allowed are seconds from 0 to 86400",
        ),
        (
            ["m", "--replica-ahead-seconds", "0"],
            "--replica-ahead-seconds: '0' is not allowed; allowed are seconds above 0, at most 86400",
        ),
        (
            ["m", "--policy", "best"],
            "--policy: 'best' is not allowed; allowed are prefix, least-load, round-robin, power-of-two, session, "
            "consistent-hash",
        ),
        (["m", "--root-path", "m"], "--root-path: 'm' is not allowed; it begins with /"),
        (["m", "--ssl-cert-reqs", "3"], "--ssl-cert-reqs: '3' is not allowed; allowed are 0, 1, 2"),
        (
            ["m", "--engine", "sglang"],
            "--engine: 'sglang' is not allowed; allowed are vllm, sim, and the path of another vLLM's executable, "
            "like /opt/venv/bin/vllm",
        ),
        (
            ["m", "--allowed-origins", "*"],
            "--allowed-origins: '*' is not allowed; a JSON list of strings is needed, like '[\"https://example.org\"]'",
        ),
        (
            ["m", "--device-ids", "0,GPU-1"],
            "--device-ids: '0,GPU-1' is not allowed; allowed are GPU indexes like 2,3, "
            "or UUIDs like GPU-5f0c1a52,GPU-77d1b0c4",
        ),
        (["m", "--device-ids", "0,0"], "--device-ids: '0,0' is not allowed; each GPU may be named once"),
        (["m", "--dry-run=yes"], "--dry-run: 'yes' is too much, it takes no value"),
        (["m", "--uds="], "--uds: '' is not allowed; a path is needed"),
        (
            ["m", "--api-key", ""],
            "--api-key: a key has 1 to 4,096 visible ASCII characters and no blanks",
        ),
        (
            ["m", "--api-key", "my secret"],
            "--api-key: a key has 1 to 4,096 visible ASCII characters and no blanks",
        ),
        (
            ["m", "--api-key", "a", "--api-key-file", "f"],
            "--api-key and --api-key-file: give one of them; the file can hold all keys",
        ),
        (
            ["m", "--record", "f", "--gateway-workers", "2"],
            "--record: only one process can record all requests; leave out --gateway-workers meanwhile",
        ),
        (["m", "--ssl-keyfile", "k"], "--ssl-keyfile: a key without its certificate; add --ssl-certfile PATH"),
        (
            ["m", "--config", "a.yaml", "--config=b.yaml"],
            "--config: only one file can be given, not both 'a.yaml' and 'b.yaml'",
        ),
        (
            ["m", "--host", "127.0.0.1:8000"],
            "--host: '127.0.0.1:8000' is not allowed; allowed are an address or a name of this machine, "
            "like 127.0.0.1, ::1, :: or localhost",
        ),
        (["m", "-dp4"], "-dp4 is no flag; write -dp 4"),
        (["m", "--tp", "2", "--dp", "4"], "--tp is no flag; write -tp 2"),
        (["--dp=4", "m"], "--dp is no flag; write -dp 4"),
        (["--replicas", "4", "m"], "--replicas is no flag; write -dp 4"),
        (["m", "--num_replicas", "4"], "--num_replicas is no flag; write -dp 4"),
        (["m", "--num-gpus-per-replica", "2"], "--num-gpus-per-replica is no flag; write -tp 2"),
        (["m", "--data-parallel", "4"], "--data-parallel is no flag; write -dp 4"),
        (["m", "--pp-size"], "--pp-size is no flag; write -pp"),
        (
            ["demo/m -tp 2"],
            "'demo/m -tp 2' is one word: a flag and its value are two, or one joined by =; check the quotes",
        ),
        (
            ["--model demo/m"],
            "'--model demo/m' is one word: a flag and its value are two, or one joined by =; check the quotes",
        ),
        (
            ["m", "--max-model-len", "-dp 4"],
            "'-dp 4' is one word: a flag and its value are two, or one joined by =; check the quotes",
        ),
        (
            ["m", "--replica-prots", "9000"],
            "--replica-prots is no flag; did you mean --replica-ports? "
            "(If your vLLM does have --replica-prots, put it into a --config file)",
        ),
        (
            ["m", "--data_paralel_size", "2"],
            "--data_paralel_size is no flag; did you mean --data-parallel-size? "
            "(If your vLLM does have --data_paralel_size, put it into a --config file)",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(words: list[str], sentence: str) -> None:
    assert refused(*words) == sentence


def test_an_abbreviation_that_may_be_ours_is_to_be_written_out() -> None:
    told = refused("m", "--data-parallel-s", "2")

    assert told.startswith("--data-parallel-s may mean --data-parallel-")
    assert told.endswith("; write it out")
    assert "--data-parallel-size" in told


RANKS = (
    "dp-vllm's -dp starts complete, independent copies of the model, which have no ranks; experts spread over "
    "data-parallel ranks are one engine: start it with `vllm serve MODEL -dp N ...`"
)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-dpl", "2"], f"-dpl 2: {RANKS}"),
        (["-dpr", "1"], f"-dpr 1: {RANKS}"),
        (["-dpn", "0"], f"-dpn 0: {RANKS}"),
        (["--data-parallel-rank=0"], f"--data-parallel-rank 0: {RANKS}"),
        (["--data_parallel_hybrid_lb"], f"--data_parallel_hybrid_lb: {RANKS}"),
        (
            ["-dp", "4", "--enable-expert-parallel"],
            "--data-parallel-size: 4 with --enable-expert-parallel would be 4 complete copies of the model, each with "
            "all experts; experts spread over data-parallel ranks are one engine: start it with "
            "`vllm serve MODEL -dp 4 --enable-expert-parallel`, or drop one of the two flags",
        ),
        (
            ["-n4"],
            "-n 4: dp-vllm serve runs replicas that fit into one machine; start an engine that spans several with "
            "`vllm serve`, and put `dp-vllm gateway --replica http://HOST:PORT` in front of such engines",
        ),
        (
            ["--headless"],
            "--headless: an engine without an API server cannot stand behind the endpoint; leave it out",
        ),
        (
            ["--grpc"],
            "--grpc: the endpoint speaks HTTP to its engines and its clients; leave it out, or run `vllm serve` itself",
        ),
        (
            ["-asc", "4"],
            "-asc 4: each replica has one API server, and the gateway spreads requests; raise -dp instead",
        ),
        (
            ["--enable-ssl-refresh"],
            "--enable-ssl-refresh: the endpoint reads its certificate when it starts; "
            "leave it out and restart to renew it",
        ),
    ],
)
def test_what_makes_no_sense_with_replicas_is_refused_with_what_to_do_instead(words: list[str], sentence: str) -> None:
    assert refused("m", *words) == sentence


def test_one_copy_may_spread_its_experts() -> None:
    assert asked("m", "-tp", "4", "-ep").engine_words == ("-ep",)
    assert asked("m", "-dp", "2", "-ep", "--no-enable-expert-parallel").settings.data_parallel_size == 2
