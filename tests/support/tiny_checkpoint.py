"""A model folder that is small enough for a test and whole enough to be served: weights, tokenizer, chat template."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
_THINKING = "<think>\n{% if enable_thinking is defined and not enable_thinking %}\n</think>\n\n{% endif %}"
_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def write_tiny_checkpoint(
    folder: Path,
    *,
    seed: int = 1,
    context_tokens: int = 4096,
    corpus: str = "",
    spare_tokens: int = 0,
    thinking: bool = False,
) -> Path:
    """Write a random Qwen2 over bytes, one token per byte.

    Args:
        folder: Where to; must exist.
        seed: Of the weights: two seeds give two models.
        context_tokens: Its context.
        corpus: Text whose frequent words become tokens of their own.
        spare_tokens: Rows of the vocabulary that stand for nothing, as Qwen's have.
        thinking: It thinks before it answers, unless asked not to, as Qwen3 does.

    Returns:
        The folder.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if corpus:
        trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, initial_alphabet=alphabet)
        tokenizer.train_from_iterator([corpus], trainer)
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in _CONTROL])
    if thinking:
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("<think>", "</think>")])
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(_TEMPLATE + _THINKING * thinking, encoding="utf-8")
    eos = tokenizer.token_to_id("<|im_end|>")
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=tokenizer.get_vocab_size() + spare_tokens,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context_tokens,
        initializer_range=0.4,  # far apart logits: no draw hangs on the last bits of a sum
        tie_word_embeddings=False,
        eos_token_id=eos,
        bos_token_id=None,
        pad_token_id=None,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=eos, do_sample=False)
    model.save_pretrained(folder)
    return folder
