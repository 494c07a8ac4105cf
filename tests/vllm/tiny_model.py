"""Make a Llama with random weights, small enough to serve on two CPU cores in seconds.

Runs inside `.venv-vllm`: `python tests/vllm/tiny_model.py DIRECTORY`. What the model says is noise; the counts, streams
and errors of the server in front of it are real.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

VOCABULARY = 512
CONTEXT = 2048  # tokens
BOS, EOS = "<s>", "</s>"
CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
SENTENCES = [
    "The gateway carries every request to the model and every answer back to the client.",
    "A key says who is asking, a limit says how much is left, and a record says what happened.",
    "Tokens are counted by the server that makes them, so the count is always the true one.",
]


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text has tokens, and they decode to the same text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[BOS, EOS], initial_alphabet=alphabet)
    bpe.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, chat_template=CHAT_TEMPLATE, model_max_length=CONTEXT
    )


def model(words: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Two layers of 128, with the same random weights every time."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16)


def save(directory: Path) -> None:
    """Write the model and its tokenizer where vLLM's `--model` can point."""
    words = tokenizer()
    words.save_pretrained(directory)
    model(words).save_pretrained(directory)


if __name__ == "__main__":
    disable_progress_bar()
    save(Path(sys.argv[1]))
