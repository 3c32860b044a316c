"""Images in both formats: blocks before the text of the last user turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrun.records import Image, Request


def turns(request: Request, block: Callable[[Image], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the conversation as both formats write it, the images in their place.

    Args:
        request: whose messages and images.
        block: writes one image as a content block of the format.
    """
    written: list[dict[str, Any]] = [
        {"role": message.role, "content": message.content, **message.extra}
        for message in request.messages
    ]
    if request.images:
        asked = next(
            turn
            for turn, message in zip(reversed(written), reversed(request.messages), strict=True)
            if message.role == "user" and not message.is_tool_result
        )
        content = asked["content"]
        rest = content if isinstance(content, list) else [{"type": "text", "text": content}]
        asked["content"] = [*(block(image) for image in request.images), *rest]
    return written


def messages_block(image: Image) -> dict[str, Any]:
    """Write an image for the messages format."""
    if image.url is not None:
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    source = {"type": "base64", "media_type": image.media_type, "data": image.data}
    return {"type": "image", "source": source}


def chat_block(image: Image) -> dict[str, Any]:
    """Write an image for the chat format."""
    url = image.url or f"data:{image.media_type};base64,{image.data}"
    return {"type": "image_url", "image_url": {"url": url}}
