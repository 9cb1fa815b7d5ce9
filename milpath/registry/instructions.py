"""What a user does to get the weights of a published encoder."""

from __future__ import annotations

from milpath.registry.published import PublishedEncoder


def describe_page(encoder: PublishedEncoder) -> str:
    """Return the address of an encoder's page, where its terms are accepted."""
    return f"https://huggingface.co/{encoder.repository}"


def describe_download(encoder: PublishedEncoder) -> str:
    """Return the shell command that downloads an encoder's weights to the cache of the hub."""
    revision = f" --revision {encoder.revision}" if encoder.revision else ""
    return f"hf download {encoder.repository} {encoder.file}{revision}"


def describe_steps(encoder: PublishedEncoder) -> tuple[str, str, str]:
    """Return three lines: how to get access, how to download the weights, and how to use them."""
    access = {
        "open": "no account is needed (pip install 'milpath[hub]')",
        "login": f"share your contact data at {describe_page(encoder)}, then run hf auth login",
        "terms": f"accept the terms at {describe_page(encoder)}, then run hf auth login",
    }[encoder.gate]
    return (
        access,
        describe_download(encoder),
        f"milpath embed SLIDES --encoder {encoder.name} [--weights FILE] --out FEATURES",
    )
