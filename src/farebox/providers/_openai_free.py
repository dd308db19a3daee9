"""OpenAI's endpoints that cost nothing; any other that is not metered may be billed."""

from __future__ import annotations

import re
from typing import Final

#: What costs nothing by OpenAI's pricing (https://developers.openai.com/api/docs/pricing, read 2026-11-21): counting, looking
#: at, changing, stopping and naming things, files, moderation.  An agent costs what its sessions do and nothing by itself
#: (https://apidog.com/blog/openai-agents-api/, read 2026-11-30), and what a run does with what its tools answered was held when
#: it began.
#:
#: Not among them, since the request says neither what they will cost nor when they have:
#:   what is kept at a price per day or minute   vector stores and their files, environments that are warmed up
#:   what goes on by itself                      sessions of agents, automations, ChatKit, evaluations, fine-tuning
#:   what lets another spend                     client secrets, calls and live sessions over WebRTC and SIP
#:   what no page has a price of                 graders that are run, searches of a vector store, voices, characters of
#:                                               videos, checks of provenance
_FREE: Final = re.compile(
    r"""(?: (?!.*/(?:agents|vector_stores)/).*/(?:
        moderations | files | uploads(?:/[^/]+/(?:parts|complete|cancel))?
      | responses/(?:input_tokens|[^/]+/cancel) | chat/completions/[^/]+ | batches/[^/]+/cancel
      | conversations(?:/[^/]+(?:/items)?)?
      | assistants(?:/[^/]+)? | threads(?:/(?!runs$)[^/]+(?:/messages(?:/[^/]+)?|/runs/[^/]+(?:/(?:cancel|submit_tool_outputs))?)?)?
      | containers/[^/]+/files | audio/voice_consents(?:/[^/]+)?
      | fine_tuning/(?:jobs/[^/]+/(?:cancel|pause|resume)|alpha/graders/validate|checkpoints/[^/]+/permissions)
      | evals(?:/[^/]+(?:/runs/[^/]+/cancel)?)? | chatkit/sessions/[^/]+/cancel
      | (?:realtime/calls|live/sessions)/[^/]+/(?:hangup|refer|reject)
      | (?:skills|vaults|webhook_endpoints)(?:/.+)? | (?:organization|projects)/.+ )
    | .*/agents(?:/(?!(?:automations|environments|sessions)$)[^/]+)?
    | .*/agents/(?:automations/[^/]+/pause|sessions/[^/]+|environments/(?:templates(?:/[^/]+)?|[^/]+/files))
    | .*/vector_stores/[^/]+(?:/file_batches/[^/]+/cancel|/files/[^/]+)? )""",
    re.VERBOSE,
)


def is_free(path: str) -> bool:
    """Whether a POST to this path costs nothing, by what the vendor publishes."""
    return _FREE.fullmatch(path) is not None
