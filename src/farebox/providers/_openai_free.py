"""OpenAI's endpoints that cost nothing; any other that is not metered may be billed."""

from __future__ import annotations

import re
from typing import Final

#: What costs nothing by OpenAI's pricing (https://developers.openai.com/api/docs/pricing, read 2026-11-21): counting, looking
#: at, changing, stopping and naming things, files, moderation.  What keeps something running or stored is not among them: a
#: container, a vector store, a session.
_FREE: Final = re.compile(
    r"""(?: (?!.*/(?:agents|vector_stores)/).*/(?:
        moderations | files | uploads(?:/[^/]+/(?:parts|complete|cancel))?
      | responses/(?:input_tokens|[^/]+/cancel) | chat/completions/[^/]+ | batches/[^/]+/cancel
      | conversations(?:/[^/]+(?:/items)?)?
      | assistants(?:/[^/]+)? | threads(?:/(?!runs$)[^/]+(?:/messages(?:/[^/]+)?|/runs/[^/]+(?:/cancel)?)?)?
      | containers/[^/]+/files | fine_tuning/(?:jobs/[^/]+/(?:cancel|pause|resume)|alpha/graders/validate)
      | evals(?:/[^/]+(?:/runs/[^/]+/cancel)?)? | chatkit/sessions/[^/]+/cancel
      | (?:realtime/calls|live/sessions)/[^/]+/(?:hangup|refer|reject)
      | (?:skills|vaults|webhook_endpoints)(?:/.+)? | (?:organization|projects)/.+ )
    | .*/vector_stores/[^/]+(?:/file_batches/[^/]+/cancel|/files/[^/]+)? )""",
    re.VERBOSE,
)


def is_free(path: str) -> bool:
    """Whether a POST to this path costs nothing, by what the vendor publishes."""
    return _FREE.fullmatch(path) is not None
