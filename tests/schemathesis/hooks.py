"""What Schemathesis cannot make by itself: components, or rather what is none."""

import schemathesis
from hypothesis import strategies

MAGIC = b"\0asm"
schemathesis.openapi.media_type(
    "application/wasm",
    strategies.builds(lambda head, rest: head + rest, strategies.sampled_from([MAGIC, b""]), strategies.binary()),
)
