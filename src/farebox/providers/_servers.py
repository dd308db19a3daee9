"""Whose server answers in another vendor's format, by the address that a client was given."""

from __future__ import annotations

import re
from typing import Final

#: Names of servers by the end of their host: OpenTelemetry's where it has one
#: (https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/), else as the price list spells them.  The hosts
#: are those of the vendors' API pages and of genai-prices 0.2.3, `Provider.api_pattern` (read 2026-11-29).
_NAMES: Final = {
    "openai.azure.com": "azure.ai.openai",
    "cognitiveservices.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.openai",
    "api.deepseek.com": "deepseek",
    "openrouter.ai": "openrouter",
    "aliyuncs.com": "qwen",  # dashscope.aliyuncs.com, dashscope-intl.aliyuncs.com
    "api.moonshot.ai": "moonshot_ai",
    "api.moonshot.cn": "moonshot_ai",
    "open.bigmodel.cn": "zhipuai",
    "api.z.ai": "z_ai",
    "api.minimax.io": "minimax",
    "api.minimax.chat": "minimax",
    "api.minimaxi.com": "minimax",
    "baidubce.com": "baidu",  # qianfan.baidubce.com
    "api.lingyiwanwu.com": "01_ai",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "codestral.mistral.ai": "mistral_ai",
    "api.x.ai": "x_ai",
    "api.together.xyz": "together_ai",
    "api.together.ai": "together_ai",
    "api.fireworks.ai": "fireworks_ai",
    "api.perplexity.ai": "perplexity",
    "api.cohere.com": "cohere",
    "api.cohere.ai": "cohere",
    "api.cerebras.ai": "cerebras",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "api.novita.ai": "novita",
    "api.githubcopilot.com": "github.copilot",
    "ollama.com": "ollama",
}
#: Programs that serve models on one's own machine, by their usual port
#: (https://repoprompt.com/docs/providers/local-models/, read 2026-11-29).
_LOCAL_PORTS: Final = {11434: "ollama", 1234: "lm_studio"}
#: The same by a part of a host's name, as in a compose file.
_LOCAL_HOSTS: Final = ("ollama", "vllm", "lmstudio")
_PRIVATE: Final = re.compile(
    r"localhost|127\..*|10\..*|192\.168\..*|172\.(?:1[6-9]|2[0-9]|3[01])\..*|0\.0\.0\.0|\[?::1\]?|\[?f[cd][0-9a-f]{2}:.*|[^.:]+"
    r"|.*\.(?:local|localhost|internal|lan|test)"
)


def is_local(host: str) -> bool:
    """Whether a host is this machine or one of a private network."""
    return _PRIVATE.fullmatch(host.lower()) is not None


def name_of_server(host: str, port: int | None) -> str:
    """The provider whose server this is; "" for a gateway that nobody here knows."""
    host = host.lower()
    parts = host.split(".")
    for start in range(len(parts) - 1):
        found = _NAMES.get(".".join(parts[start:]))
        if found is not None:
            return found
    if not is_local(host):
        return ""
    return _LOCAL_PORTS.get(port or 0) or next((name for name in _LOCAL_HOSTS if name in host), "")
