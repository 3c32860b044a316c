"""Presets: the known facts about each provider. One entry of `PROVIDERS` has everything about one of them.

Addresses, variables and headers are those of the vendors' own documentation (November 2026). The ids are
those of genai-prices where it has the provider. docs/providers.md lists the table.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.records import FormatName

MOST_HOSTS = 100
_LOCAL_HOST = "localhost"
# The parts of an address that a user must fill in.
_BLANK = re.compile(r"\b[A-Z][A-Z_]{2,}\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderPreset:
    """The known facts about one provider.

    Attributes:
        id: the value of `[request] provider`.
        title: its name, for people.
        addresses: the base URL or whole endpoint by wire format, the usual format first. Words in
            capitals are for the user to fill in.
        hosts: a pattern of its hosts; empty: only those of `addresses`.
        key_env: the environment variable with the key; empty if it needs none.
        auth: how the key is sent; None: as the wire format does.
        key_command: a program that prints a key, for providers with short-lived keys. `init` writes it into
            the job file. It never runs because of the provider's name alone.
        path: a part of the path of its endpoints; any other address of the provider is wrong.
        prices: the id in the price list; None: `id`.
        reasoning_models: a pattern of the models that take `max_completion_tokens` and no sampling
            parameters such as `temperature`; None: no model.
        strict_schemas: the formats in which it refuses schemas that `SchemaRules` of the format name.
        document_urls: whether it takes the URL of a document in the chat format, too.
        example_model: a model for a first job.
        aliases: other names that people use for it.
    """

    id: str
    title: str
    addresses: Mapping[FormatName, str]
    hosts: str = ""
    key_env: str = ""
    auth: str | None = None
    key_command: tuple[str, ...] = ()
    path: str = ""
    prices: str | None = None
    reasoning_models: str | None = None
    strict_schemas: tuple[FormatName, ...] = ()
    document_urls: bool = False
    example_model: str = ""
    aliases: tuple[str, ...] = field(default=())

    @property
    def format(self) -> FormatName:
        """Its usual wire format."""
        return next(iter(self.addresses))

    @property
    def is_local(self) -> bool:
        """Whether it is a server that users run on their own machine."""
        return urlsplit(self.addresses[self.format]).hostname == _LOCAL_HOST

    def answers_at(self, host: str) -> bool:
        """Whether a host is one of the provider's."""
        if self.is_local:
            return False
        if self.hosts:
            return re.fullmatch(self.hosts, host, re.IGNORECASE) is not None
        own = {urlsplit(address).hostname for address in self.addresses.values()}
        return host.lower() in own


def blanks(address: str) -> tuple[str, ...]:
    """Return the words of an address that a user must fill in."""
    return tuple(dict.fromkeys(_BLANK.findall(address)))


_OPENAI_REASONING = r"(?:.*/)?(?:o\d|gpt-(?:[5-9]|\d\d)).*"


def _chat(address: str) -> dict[FormatName, str]:
    return {"chat": address}


def _both(chat: str, messages: str) -> dict[FormatName, str]:
    return {"chat": chat, "messages": messages}


PROVIDERS: tuple[ProviderPreset, ...] = (
    ProviderPreset(
        id="anthropic",
        title="Anthropic",
        addresses={"messages": "https://api.anthropic.com", "chat": "https://api.anthropic.com"},
        key_env="ANTHROPIC_API_KEY",
        strict_schemas=("messages",),
        example_model="claude-haiku-4-5-20251001",
        aliases=("claude",),
    ),
    ProviderPreset(
        id="openai",
        title="OpenAI",
        addresses=_chat("https://api.openai.com"),
        hosts=r"(?:\w\w\.)?api\.openai\.com",
        path="/chat/",
        key_env="OPENAI_API_KEY",
        reasoning_models=_OPENAI_REASONING,
        strict_schemas=("chat",),
        example_model="gpt-4o-mini",
    ),
    ProviderPreset(
        id="azure",
        title="Microsoft Azure",
        addresses=_both(
            "https://RESOURCE.openai.azure.com/openai/v1",
            "https://RESOURCE.services.ai.azure.com/anthropic",
        ),
        hosts=r"[\w-]+\.(?:openai\.azure\.com|services\.ai\.azure\.com|cognitiveservices\.azure\.com)",
        key_env="AZURE_OPENAI_API_KEY",
        auth="api-key",
        path="/openai/|/models/|/anthropic/",
        reasoning_models=_OPENAI_REASONING,
        strict_schemas=("chat", "messages"),
        example_model="gpt-4o-mini",
        aliases=("azure-openai", "microsoft"),
    ),
    ProviderPreset(
        id="openrouter",
        title="OpenRouter",
        addresses=_both("https://openrouter.ai/api", "https://openrouter.ai/api"),
        key_env="OPENROUTER_API_KEY",
        auth="bearer",
        path="/api/",
        document_urls=True,
        example_model="openai/gpt-4o-mini",
    ),
    ProviderPreset(
        id="google",
        title="Google Gemini",
        addresses=_chat("https://generativelanguage.googleapis.com/v1beta/openai"),
        key_env="GEMINI_API_KEY",
        path="/openai/",
        example_model="gemini-2.5-flash",
        aliases=("gemini", "googleai", "google-gemini"),
    ),
    ProviderPreset(
        id="vertex",
        title="Google Vertex AI",
        addresses=_chat(
            "https://aiplatform.googleapis.com/v1/projects/PROJECT/locations/global/endpoints/openapi"
        ),
        hosts=r"(?:[\w-]+-)?aiplatform(?:\.\w+\.rep)?\.googleapis\.com",
        key_env="VERTEX_ACCESS_TOKEN",
        key_command=("gcloud", "auth", "print-access-token"),
        path="/endpoints/",
        prices="google",
        example_model="google/gemini-2.5-flash",
        aliases=("google-vertex", "vertexai", "vertex-ai"),
    ),
    ProviderPreset(
        id="aws",
        title="Amazon Bedrock",
        addresses=_both(
            "https://bedrock-mantle.us-east-1.api.aws",
            "https://bedrock-mantle.us-east-1.api.aws/anthropic",
        ),
        hosts=r"bedrock-(?:mantle|runtime)\.[\w-]+\.(?:api\.aws|amazonaws\.com)",
        key_env="AWS_BEARER_TOKEN_BEDROCK",
        strict_schemas=("messages",),
        auth="bearer",
        example_model="openai.gpt-oss-20b",
        aliases=("bedrock", "amazon", "amazon-bedrock"),
    ),
    ProviderPreset(
        id="groq",
        title="Groq",
        addresses=_chat("https://api.groq.com/openai"),
        key_env="GROQ_API_KEY",
        path="/openai/",
        example_model="llama-3.1-8b-instant",
    ),
    ProviderPreset(
        id="together",
        title="Together AI",
        addresses=_chat("https://api.together.xyz"),
        hosts=r"api\.together\.(?:xyz|ai)",
        key_env="TOGETHER_API_KEY",
        example_model="meta-llama/Llama-3.3-70B-Instruct-Turbo",
        aliases=("togetherai", "together-ai"),
    ),
    ProviderPreset(
        id="deepseek",
        title="DeepSeek",
        addresses=_both("https://api.deepseek.com", "https://api.deepseek.com/anthropic"),
        key_env="DEEPSEEK_API_KEY",
        example_model="deepseek-chat",
    ),
    ProviderPreset(
        id="mistral",
        title="Mistral",
        addresses=_chat("https://api.mistral.ai"),
        key_env="MISTRAL_API_KEY",
        example_model="mistral-small-latest",
        aliases=("mistralai",),
    ),
    ProviderPreset(
        id="x-ai",
        title="xAI",
        addresses=_chat("https://api.x.ai"),
        hosts=r"(?:[\w-]+\.)?api\.x\.ai",
        key_env="XAI_API_KEY",
        example_model="grok-4-fast-non-reasoning",
        aliases=("xai", "grok"),
    ),
    ProviderPreset(
        id="cohere",
        title="Cohere",
        addresses=_chat("https://api.cohere.ai/compatibility"),
        hosts=r"api\.cohere\.(?:ai|com)",
        key_env="COHERE_API_KEY",
        path="/compatibility/",
        example_model="command-r-08-2024",
    ),
    ProviderPreset(
        id="cerebras",
        title="Cerebras",
        addresses=_chat("https://api.cerebras.ai"),
        key_env="CEREBRAS_API_KEY",
        example_model="gpt-oss-120b",
    ),
    ProviderPreset(
        id="fireworks",
        title="Fireworks AI",
        addresses=_both("https://api.fireworks.ai/inference", "https://api.fireworks.ai/inference"),
        key_env="FIREWORKS_API_KEY",
        auth="bearer",
        path="/inference/",
        example_model="accounts/fireworks/models/gpt-oss-20b",
        aliases=("fireworksai", "fireworks-ai"),
    ),
    ProviderPreset(
        id="deepinfra",
        title="DeepInfra",
        addresses=_chat("https://api.deepinfra.com/v1/openai"),
        key_env="DEEPINFRA_API_KEY",
        path="/openai/",
        example_model="meta-llama/Meta-Llama-3.1-8B-Instruct",
        aliases=("deep-infra",),
    ),
    ProviderPreset(
        id="perplexity",
        title="Perplexity",
        addresses=_chat("https://api.perplexity.ai/chat/completions"),
        key_env="PERPLEXITY_API_KEY",
        example_model="sonar",
    ),
    ProviderPreset(
        id="moonshotai",
        title="Moonshot AI",
        addresses=_both("https://api.moonshot.ai", "https://api.moonshot.ai/anthropic"),
        hosts=r"api\.moonshot\.(?:ai|cn)",
        key_env="MOONSHOT_API_KEY",
        example_model="kimi-k2-0905-preview",
        aliases=("moonshot", "kimi"),
    ),
    ProviderPreset(
        id="zai",
        title="Z.AI",
        addresses=_both("https://api.z.ai/api/paas/v4", "https://api.z.ai/api/anthropic"),
        key_env="ZAI_API_KEY",
        path="/paas/|/anthropic/",
        example_model="glm-4.5-air",
        aliases=("z.ai", "z-ai"),
    ),
    ProviderPreset(
        id="zhipuai",
        title="Zhipu AI",
        addresses=_both(
            "https://open.bigmodel.cn/api/paas/v4", "https://open.bigmodel.cn/api/anthropic"
        ),
        key_env="ZHIPUAI_API_KEY",
        path="/paas/|/anthropic/",
        example_model="glm-4.5-air",
        aliases=("zhipu", "bigmodel"),
    ),
    ProviderPreset(
        id="minimax",
        title="MiniMax",
        addresses=_both("https://api.minimax.io", "https://api.minimax.io/anthropic"),
        hosts=r"api\.minimaxi?\.(?:io|com|chat)",
        key_env="MINIMAX_API_KEY",
        example_model="MiniMax-M2",
    ),
    ProviderPreset(
        id="alibaba",
        title="Alibaba Model Studio",
        addresses=_chat("https://dashscope-intl.aliyuncs.com/compatible-mode"),
        hosts=r"dashscope(?:-\w+)?\.aliyuncs\.com",
        key_env="DASHSCOPE_API_KEY",
        path="/compatible-mode/",
        example_model="qwen-flash",
        aliases=("dashscope", "qwen"),
    ),
    ProviderPreset(
        id="volcengine",
        title="Volcengine Ark",
        addresses=_chat("https://ark.cn-beijing.volces.com/api/v3"),
        hosts=r"ark\.[\w.-]+\.(?:volces|bytepluses)\.com",
        key_env="ARK_API_KEY",
        path="/api/",
        example_model="doubao-seed-1-6-flash-250828",
        aliases=("ark", "doubao", "byteplus"),
    ),
    ProviderPreset(
        id="novita",
        title="Novita AI",
        addresses=_chat("https://api.novita.ai/openai"),
        key_env="NOVITA_API_KEY",
        path="/openai/",
        example_model="meta-llama/llama-3.1-8b-instruct",
        aliases=("novita-ai",),
    ),
    ProviderPreset(
        id="cloudflare",
        title="Cloudflare Workers AI",
        addresses=_chat("https://api.cloudflare.com/client/v4/accounts/ACCOUNT_ID/ai/v1"),
        key_env="CLOUDFLARE_API_TOKEN",
        path="/ai/v1/",
        example_model="@cf/meta/llama-3.1-8b-instruct",
    ),
    ProviderPreset(
        id="databricks",
        title="Databricks",
        addresses=_chat(
            "https://WORKSPACE.cloud.databricks.com/serving-endpoints/chat/completions"
        ),
        hosts=r"[\w.-]+\.(?:cloud\.databricks\.com|azuredatabricks\.net|gcp\.databricks\.com)",
        key_env="DATABRICKS_TOKEN",
        path="/serving-endpoints/|/ai-gateway/",
        example_model="databricks-claude-sonnet-4-5",
    ),
    ProviderPreset(
        id="huggingface",
        title="Hugging Face Inference Providers",
        addresses=_chat("https://router.huggingface.co"),
        key_env="HF_TOKEN",
        example_model="openai/gpt-oss-20b",
        aliases=("hf", "hugging-face"),
    ),
    ProviderPreset(
        id="github",
        title="GitHub Models",
        addresses=_chat("https://models.github.ai/inference/chat/completions"),
        key_env="GITHUB_TOKEN",
        path="/inference/",
        example_model="openai/gpt-4o-mini",
        aliases=("github-models",),
    ),
    ProviderPreset(
        id="nvidia",
        title="NVIDIA NIM",
        addresses=_chat("https://integrate.api.nvidia.com"),
        key_env="NVIDIA_API_KEY",
        example_model="meta/llama-3.1-8b-instruct",
        aliases=("nim",),
    ),
    ProviderPreset(
        id="litellm",
        title="LiteLLM proxy",
        addresses=_both("http://localhost:4000", "http://localhost:4000"),
        key_env="LITELLM_API_KEY",
        auth="bearer",
        example_model="openai/gpt-4o-mini",
    ),
    ProviderPreset(
        id="vllm",
        title="vLLM",
        addresses=_both("http://localhost:8000", "http://localhost:8000"),
        example_model="Qwen/Qwen3-0.6B",
    ),
    ProviderPreset(
        id="sglang",
        title="SGLang",
        addresses=_both("http://localhost:30000", "http://localhost:30000"),
        example_model="Qwen/Qwen3-0.6B",
    ),
    ProviderPreset(
        id="ollama",
        title="Ollama",
        addresses=_both("http://localhost:11434", "http://localhost:11434"),
        example_model="llama3.2",
    ),
    ProviderPreset(
        id="llamacpp",
        title="llama.cpp",
        addresses=_both("http://localhost:8080", "http://localhost:8080"),
        example_model="default",
        aliases=("llama.cpp", "llama-cpp", "llama-server"),
    ),
    ProviderPreset(
        id="lmstudio",
        title="LM Studio",
        addresses=_both("http://localhost:1234", "http://localhost:1234"),
        example_model="openai/gpt-oss-20b",
        aliases=("lm-studio",),
    ),
)
PRESETS: Mapping[str, ProviderPreset] = {preset.id: preset for preset in PROVIDERS}
_NAMES = {name: preset.id for preset in PROVIDERS for name in (preset.id, *preset.aliases)}


@lru_cache(MOST_HOSTS)
def preset_at(host: str) -> ProviderPreset | None:
    """Return the provider of a host."""
    return next((preset for preset in PROVIDERS if preset.answers_at(host)), None)


def meant_provider(name: str) -> str | None:
    """Return the id of the provider that a name may mean, if it is not an id itself."""
    close = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.8)
    return None if name in PRESETS or not close else _NAMES[close[0]]


def price_list_id(name: str) -> str:
    """Return the id of a provider in the price list."""
    preset = PRESETS.get(name)
    return name if preset is None or preset.prices is None else preset.prices
