"""A tiny random Llama, made in a second: for demos and tests that want the real server without a download.

It generates printable nonsense and never ends by itself, which is the very hazard that a guard is for. Two things make
llama-server accept it. The vocabulary holds all 256 byte tokens, because the tokenizer looks up the bytes of its space
mark. And tokens that are not printable ASCII are never sampled, because the server answers 500 to invalid UTF-8: one
dimension of the embedding is constant, and the output layer weighs it against those tokens.
"""

from pathlib import Path
from typing import Any

from corral.errors import UsageError

_HEADS = 4
_WORDS = (
    *(
        "a",
        "about",
        "and",
        "as",
        "at",
        "be",
        "but",
        "by",
        "can",
        "could",
        "do",
        "for",
        "from",
        "had",
        "have",
        "he",
        "her",
    ),
    *(
        "his",
        "if",
        "in",
        "into",
        "is",
        "it",
        "like",
        "more",
        "no",
        "not",
        "of",
        "on",
        "one",
        "or",
        "other",
        "out",
        "she",
    ),
    *("so", "some", "than", "that", "the", "their", "then", "there", "they", "this", "time", "to", "two", "up", "was"),
)


def write_tiny_llama(path: Path, *, width: int = 64, layers: int = 2, context: int = 4096, seed: int = 0) -> None:
    """Write a GGUF file with random weights; the same arguments give the same file.

    Args:
        path: The file to write; one that is there is replaced.
        width: Size of the embedding, a multiple of 8; 64 makes 0.7 MB and a fast model, 512 a slow one.
        layers: How many blocks.
        context: Longest context, in tokens.
        seed: Of the random weights.

    Raises:
        UsageError: the packages that it takes are not installed.

    """
    try:
        import gguf  # noqa: PLC0415  # an extra: only demos and tests need it
        import numpy as np  # noqa: PLC0415  # as above
    except ImportError as error:
        raise UsageError("Making a model takes two more packages: pip install 'corral[demo]'") from error
    tokens, kinds, scores = _vocabulary(gguf)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny-random-llama")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(4 * width)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // _HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(0)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    _add_weights(writer, np, width=width, layers=layers, vocabulary=len(tokens), seed=seed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _vocabulary(gguf: Any) -> tuple[list[bytes], list[Any], list[float]]:
    """List the tokens: three special ones, every byte, and some words."""
    kinds = gguf.TokenType
    entries = [(b"<unk>", kinds.UNKNOWN, 0.0), (b"<s>", kinds.CONTROL, 0.0), (b"</s>", kinds.CONTROL, 0.0)]
    entries += [(f"<0x{byte:02X}>".encode(), kinds.BYTE, 0.0) for byte in range(256)]
    entries += [
        (f"\u2581{word}".encode(), kinds.NORMAL, -float(len(entries) + rank)) for rank, word in enumerate(_WORDS)
    ]
    tokens, types, scores = zip(*entries, strict=True)
    return list(tokens), list(types), list(scores)


def _add_weights(writer: Any, np: Any, *, width: int, layers: int, vocabulary: int, seed: int) -> None:
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> Any:
        return (0.05 * random.standard_normal(shape)).astype(np.float32)

    embedding, output = weights(vocabulary, width), weights(vocabulary, width)
    embedding[:, 0] = 1.0
    output[:, 0] = 0.0
    printable = {10, *range(32, 127)}
    output[[0, 1, 2, *(3 + byte for byte in range(256) if byte not in printable)], 0] = -1000.0
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    writer.add_tensor("output.weight", output)
    for layer in range(layers):
        block = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{norm}.weight", np.ones(width, np.float32))
        for matrix in ("attn_q", "attn_k", "attn_v"):
            writer.add_tensor(f"{block}.{matrix}.weight", weights(width, width))
        for matrix in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"{block}.{matrix}.weight", weights(4 * width, width))
        for matrix, inputs in (("attn_output", width), ("ffn_down", 4 * width)):
            into_stream = weights(width, inputs)
            into_stream[0] = 0.0  # the constant dimension stays what the embedding made it
            writer.add_tensor(f"{block}.{matrix}.weight", into_stream)
