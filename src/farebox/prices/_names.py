"""How providers and models are called: OpenTelemetry's names, price lists' names, and the prefixes SDKs put before them."""

from __future__ import annotations

import re
from typing import Final

#: The longest name that is looked up.  Names come from requests and responses, so they are not trusted.
LONGEST_NAME: Final = 256

# OpenTelemetry `gen_ai.provider.name` -> genai-prices provider id.
# Source: https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/ (read 2026-11-21).
_PROVIDER_IDS: Final = {
    "gcp.gemini": "google",
    "gcp.vertex_ai": "google",
    "gcp.gen_ai": "google",
    "gemini": "google",
    "vertex_ai": "google",
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "azure_openai": "azure",
    "aws.bedrock": "aws",
    "bedrock": "aws",
    "mistral_ai": "mistral",
    "x_ai": "x-ai",
    "xai": "x-ai",
    "moonshot_ai": "moonshotai",
    "moonshot": "moonshotai",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "z_ai": "zai",
    "github.copilot": "github-copilot",
}

_PRINTABLE: Final = re.compile(r"[!-~]+")
_GOOGLE_PATH: Final = re.compile(r"^(?:projects/[^/]+/locations/[^/]+/)?(?:publishers/[^/]+/)?(?:models/)?")
#: How OpenRouter is to choose a server for a model, which is priced as that model; `:online` searches for a fee besides
#: (https://openrouter.ai/docs/guides/routing/model-variants, a copy, read 2026-11-29).
_OPENROUTER_VARIANT: Final = re.compile(r":(?:online|nitro|floor|exacto)$")
_BEDROCK_FOUNDATION: Final = re.compile(r"^arn:aws[^:]*:bedrock:[^:]*:[^:]*:foundation-model/")
_BEDROCK_VENDOR: Final = re.compile(
    r"^(?:(?:us|us-gov|eu|apac|jp|au|ca|global)\.)?(?:amazon|anthropic|cohere|deepseek|google|meta|mistral|openai)\."
)


def provider_id(provider_name: str) -> str:
    """The price list's id of a provider; a name it does not know stays as it is, in lower case."""
    return _PROVIDER_IDS.get(provider_name) or _PROVIDER_IDS.get(provider_name.lower()) or provider_name.lower()


def is_plausible(name: str) -> bool:
    """Whether a name can be a model's: printable ASCII without blanks, not too long."""
    return len(name) <= LONGEST_NAME and _PRINTABLE.fullmatch(name) is not None


def model_id(provider: str, model: str) -> str:
    """A model's name as price lists write it: lower case, without the path some APIs put before it.

    >>> model_id("google", "publishers/google/models/gemini-2.5-pro")
    'gemini-2.5-pro'
    """
    name = model.lower()
    if provider == "google":
        return _GOOGLE_PATH.sub("", name)
    if provider == "openrouter":
        return _OPENROUTER_VARIANT.sub("", name)
    if provider == "aws":
        return _BEDROCK_FOUNDATION.sub("", name)
    return name


def is_free_variant(provider: str, model: str) -> bool:
    """Whether a name says that its server charges nothing: OpenRouter's `:free` (source as above)."""
    return provider == "openrouter" and model.lower().endswith(":free")


def family(model: str) -> str:
    """A model's own name without who serves it: `us.anthropic.claude-x` and `anthropic/claude-x` are `claude-x`."""
    name = model.lower().rpartition("/")[2]
    return _BEDROCK_VENDOR.sub("", name)
