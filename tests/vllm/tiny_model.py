"""Make a tiny causal language model with random weights, a real tokenizer and a chat template, without a network.

Runs with the Python into which vLLM was installed: `python tiny_model.py DIRECTORY`. The tokenizer is trained on the
source code of the standard library, so that text becomes about as many tokens as with a real one of its size.
"""

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch  # type: ignore[import-not-found]
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # type: ignore[import-not-found]
from transformers import (  # type: ignore[import-not-found]
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

POSITIONS = 2048
VOCABULARY = 1024
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def sources() -> Iterator[str]:
    """Text to learn tokens from: some modules of the standard library, always the same ones."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:150]:
        yield path.read_text(encoding="utf-8", errors="ignore")


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, which takes any text there is."""
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokens.train_from_iterator(sources(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        bos_token=END_OF_TEXT,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def model(words: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """213,000 random weights, the same in every run. The heads have 32 dimensions, the least that the engine takes."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16)


def main(directory: str) -> None:
    words = tokenizer()
    words.save_pretrained(directory)
    model(words).save_pretrained(directory)
    for file in Path(directory).iterdir():
        file.chmod(0o644)  # weights are written for their owner alone, and pods have another user


if __name__ == "__main__":
    main(sys.argv[1])
