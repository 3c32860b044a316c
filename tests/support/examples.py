"""Documented requests."""

from __future__ import annotations

GREETING = """{
  "id": "msg_bdrk_01Q6WN27v95ypCa1kbanAQ6K",
  "model": "claude-opus-4-20250514",
  "object": "chat.completion",
  "created": 1768619365,
  "choices": [{"index": 0, "message": {"role": "assistant",
    "content": "Hello! How can I help you today?"}, "finish_reason": "stop"}],
  "usage": {
    "prompt_tokens": 8, "completion_tokens": 12, "total_tokens": 20,
    "prompt_tokens_details":
      {"cached_tokens": 0, "text_tokens": 0, "audio_tokens": 0, "image_tokens": 0},
    "completion_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "reasoning_tokens": 0},
    "input_tokens": 0, "output_tokens": 0, "input_tokens_details": null,
    "claude_cache_creation_5_m_tokens": 0, "claude_cache_creation_1_h_tokens": 0
  }
}"""


SECOND_TURN = """{
  "id": "msg_bdrk_01Y1wfQmd89g968TVbFu57Yc",
  "model": "claude-opus-4-20250514",
  "object": "chat.completion",
  "created": 1768619674,
  "choices": [{"index": 0, "message": {"role": "assistant",
    "content": "You said \\"Hello\\" - that was your first message to me in our conversation."},
    "finish_reason": "stop"}],
  "usage": {
    "prompt_tokens": 29, "completion_tokens": 20, "total_tokens": 49,
    "prompt_tokens_details":
      {"cached_tokens": 0, "text_tokens": 0, "audio_tokens": 0, "image_tokens": 0},
    "completion_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "reasoning_tokens": 0},
    "input_tokens": 0, "output_tokens": 0, "input_tokens_details": null,
    "claude_cache_creation_5_m_tokens": 0, "claude_cache_creation_1_h_tokens": 0
  }
}"""


THINKING = """{
  "id": "msg_018J4YaRoGHtbsTVb4Vvz7oH",
  "object": "chat.completion",
  "created": 1755444014,
  "model": "claude-sonnet-4-20250514-thinking",
  "choices": [{"index": 0, "message": {"role": "assistant",
    "content": "The sine of 30 degrees is **1/2** or **0.5**.",
    "reasoning_content": "The user is asking for the sine of 30 degrees. In a 30-60-90 triangle, \
the sides are in the ratio 1:√3:2."}, "logprobs": null, "finish_reason": "stop"}],
  "usage": {
    "prompt_tokens": 60, "completion_tokens": 239, "total_tokens": 299,
    "prompt_tokens_details": {"cached_tokens_details": {}}, "completion_tokens_details": {}
  }
}"""


VISION = """{
  "id": "msg_bdrk_01NCrxpZmV17bhQJJRQEFEb9",
  "model": "claude-sonnet-4-20250514",
  "object": "chat.completion",
  "created": 1768628904,
  "choices": [{"index": 0, "message": {"role": "assistant",
    "content": "This image shows an API request configuration interface.\\n\\n1. **model**"},
    "finish_reason": "stop"}],
  "usage": {
    "prompt_tokens": 1570, "completion_tokens": 252, "total_tokens": 1822,
    "prompt_tokens_details":
      {"cached_tokens": 0, "text_tokens": 0, "audio_tokens": 0, "image_tokens": 0},
    "completion_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "reasoning_tokens": 0},
    "input_tokens": 0, "output_tokens": 0, "input_tokens_details": null,
    "claude_cache_creation_5_m_tokens": 0, "claude_cache_creation_1_h_tokens": 0
  }
}"""


SMALL = """{
  "id": "chatcmpl-123",
  "object": "chat.completion",
  "created": 1677652288,
  "model": "claude-sonnet-4-20250514",
  "choices": [{"index": 0, "message": {"role": "assistant",
    "content": "Hello! How can I help you today?"}, "finish_reason": "stop"}],
  "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
}"""
