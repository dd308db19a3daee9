"""The surfaces of an SDK that is installed, read from its own source: what sends a POST, and where to.

Nothing here names a surface.  A client's resources are walked, and of each method the calls that post are looked up in the
syntax tree, with the path that is written there; so a surface of tomorrow's SDK is found as well.  No request is made, and no
client is set up to make one.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType
from typing import Any, Final, NamedTuple

from farebox.providers import Provider

_DEEPEST: Final = 8
#: What a path is called that is put together at run time.
UNKNOWN_PATH: Final = "?"
SOCKET: Final = "websocket "
#: Before the name of a function that stands below another one of its class.
_SUPER: Final = "super()."


class Found(NamedTuple):
    """A method that sends: as it is called from a client, the path as it is written, and "sync" or "async" and "stream"."""

    surface: str
    path: str
    modes: tuple[str, ...]


class Post(NamedTuple):
    path: str
    is_stream: bool


def stainless(provider: Provider) -> Iterator[Found]:
    """Of an SDK built like OpenAI's and Anthropic's: its resources are cached properties that take a client."""
    sdk = importlib.import_module(provider.sdk)
    sockets: dict[str, str] = getattr(provider, "sockets", {})
    for mode, name in zip(("sync", "async"), provider.clients, strict=True):
        client = object.__new__(getattr(sdk, name))  # which has methods to bind, and no connection and no key
        for prefix, resource in _resources(client, ""):
            for method, posts in methods(kind_of(resource)).items():
                yield from (Found(prefix + method, post.path, _modes(mode, post)) for post in posts)
            yield from _opened(sockets, mode, prefix, resource)


def google(provider: Provider) -> Iterator[Found]:
    """Of Google's SDK: its resources are properties of a client and of its `aio`."""
    sdk = importlib.import_module(provider.sdk)
    client = getattr(sdk, provider.clients[0])(api_key="none", vertexai=False)
    sockets: dict[str, str] = getattr(provider, "sockets", {})
    try:
        for mode, owner in (("sync", client), ("async", client.aio)):
            for prefix, resource in _resources(owner, ""):
                for method, posts in methods(kind_of(resource)).items():
                    yield from (Found(prefix + method, post.path, _modes(mode, post)) for post in posts)
                yield from _opened(sockets, mode, prefix, resource)
    finally:
        getattr(client, "close", lambda: None)()


def _opened(sockets: Mapping[str, str], mode: str, prefix: str, resource: Any) -> Iterator[Found]:
    """The method of a resource that opens a websocket, where it has one."""
    path = sockets.get(type(resource).__module__)
    if path is not None and hasattr(resource, "connect"):
        yield Found(f"{prefix}connect", SOCKET + path, (mode, "stream"))


def mistral(provider: Provider) -> Iterator[Found]:
    """Of Mistral's SDK: the resources of a client are in a map of its class, theirs are attributes; each method has a twin."""
    sdk = importlib.import_module(provider.sdk)
    if not hasattr(sdk, provider.clients[0]):  # before 2.0 it was one package up
        sdk = importlib.import_module(provider.sdk.partition(".")[0])
    client = object.__new__(getattr(sdk, provider.clients[0]))
    client.sdk_configuration = None
    for prefix, resource in _named_resources(client, ""):
        for method, posts in methods(kind_of(resource)).items():
            name = method.removesuffix("_async")
            for post in posts:
                path, _, stream = post.path.partition("#")
                mode = "sync" if name == method else "async"
                yield Found(prefix + name, path, (mode, "stream") if stream == "stream" else (mode,))


def cohere(provider: Provider) -> Iterator[Found]:
    """Of Cohere's SDK: a client and its resources each have a raw one, whose methods send."""
    sdk = importlib.import_module(provider.sdk)
    for mode, name in zip(("sync", "async"), provider.clients, strict=True):
        client = getattr(sdk, name)(api_key="none")
        for prefix, resource in (("", client), *_resources(client, "")):
            for method, posts in methods(kind_of(getattr(resource, "_raw_client", resource))).items():
                yield from (
                    Found(prefix + method, post.path, (mode, "stream") if method.endswith("_stream") else (mode,))
                    for post in posts
                )


def _named_resources(owner: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """What hangs on a client or a resource of such an SDK, with the words before a method of it."""
    for name in (*getattr(owner, "_sub_sdk_map", ()), *vars(owner)):
        resource = getattr(owner, name, None)
        if hasattr(resource, "do_request") and not name.startswith("parent"):
            yield f"{prefix}{name}.", resource
            yield from _named_resources(resource, f"{prefix}{name}.")


def _modes(mode: str, post: Post) -> tuple[str, ...]:
    return (mode, "stream") if post.is_stream else (mode,)


def _resources(owner: Any, prefix: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """What hangs on a client and sends, with the words before a method of it."""
    package = type(owner).__module__.partition(".")[0]
    for name in dir(type(owner)):
        kind = inspect.getattr_static(type(owner), name)
        if (
            name.startswith(("_", "with_"))
            or name == "aio"
            or not isinstance(kind, (functools.cached_property, property))
        ):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is experimental, which nobody here uses
                resource = getattr(owner, name)
        except Exception:
            continue
        of = type(resource)
        sends = of.__module__.partition(".")[0] == package or hasattr(resource, "_post")
        if sends and of is not type(owner) and depth < _DEEPEST:
            yield f"{prefix}{name}.", resource
            yield from _resources(resource, f"{prefix}{name}.", depth + 1)


def kind_of(resource: Any) -> Any:
    """Its class, for a cache: to a type checker no class can be hashed."""
    return type(resource)


@functools.lru_cache(maxsize=4_096)
def methods(cls: Any) -> dict[str, list[Post]]:
    """The public methods of a class that post, and what each posts, also by way of another method of the class."""
    codes: dict[str, CodeType] = {}
    for base in reversed(cls.__mro__[:-1]):
        for name, value in vars(base).items():
            code = _code(value)
            if code is not None:
                if name in codes:
                    codes[_SUPER + name] = codes[name]
                codes[name] = code
    sending = _sending(codes)
    found: dict[str, list[Post]] = {}
    for name in codes:
        if name in sending and not name.startswith(("_", _SUPER)):
            posts = list(dict.fromkeys(_posts_below(name, codes, sending, set())))
            if posts:
                found[name] = posts
    return found


def _code(value: Any) -> CodeType | None:
    """Of what stands in a class under a name: a function, also one that is decorated or asked for as a property."""
    value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    code = getattr(inspect.unwrap(value), "__code__", None) if callable(value) else None
    return code if isinstance(code, CodeType) else None


def _sending(codes: dict[str, CodeType]) -> set[str]:
    """The functions that may post, by the words in their bytecode: what takes time to parse are all the others."""
    words = {name: _words(code) for name, code in codes.items()}
    found = {name for name, said in words.items() if any("post" in word.lower() for word in said)}
    while True:
        more = {name for name, said in words.items() if name not in found and not found.isdisjoint(said)}
        if not more:
            return found
        found |= more


def _words(code: CodeType) -> set[str]:
    words = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, str):
            words.add(constant)
        elif isinstance(constant, tuple):
            words.update(word for word in constant if isinstance(word, str))
        elif isinstance(constant, CodeType):
            words |= _words(constant)
    return words | {_SUPER + name for name in code.co_names} if "super" in words else words


def _posts_below(name: str, codes: dict[str, CodeType], sending: set[str], seen: set[str]) -> Iterator[Post]:
    seen.add(name)
    function = _syntax(codes[name])
    yield from _posts(function)
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and (_is_self(node.value) or _is_super(node.value)):
            called = node.attr if _is_self(node.value) else _SUPER + node.attr
            if called in sending and called not in seen:
                yield from _posts_below(called, codes, sending, seen)


@functools.cache
def _syntax(code: CodeType) -> ast.AST:
    """The syntax tree of one function: of its own lines, as a whole file takes long."""
    try:
        lines = _lines(code.co_filename)
    except OSError:
        return ast.Module([], [])  # there is no source
    ends = [end for *_, end in (position[:2] for position in code.co_positions()) if end is not None]
    first, last = code.co_firstlineno - 1, max(ends, default=0)
    indent = len(lines[first]) - len(lines[first].lstrip()) if first < len(lines) else 0
    try:
        return ast.parse("if 1:\n" * bool(indent) + "".join(lines[first:last]))
    except SyntaxError:
        return ast.Module([], [])


@functools.cache
def _lines(file: str) -> list[str]:
    with open(file, encoding="utf-8") as source:
        return source.readlines()


def forget() -> None:
    """Drop the syntax trees, which are large."""
    _syntax.cache_clear()
    _lines.cache_clear()


def _posts(function: ast.AST) -> Iterator[Post]:
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        said = {word.arg: word.value for word in node.keywords if word.arg}
        for written in _written(node, said):
            stream = said.get("stream")
            is_stream = stream is not None and not (isinstance(stream, ast.Constant) and not stream.value)
            is_stream = is_stream or (isinstance(node.func, ast.Attribute) and node.func.attr.endswith("_streamed"))
            yield from (Post(path, is_stream) for path in _paths(written, function))


def _written(node: ast.Call, said: dict[str, ast.expr]) -> Iterator[ast.expr]:
    """The expressions of the paths that a call posts to, in the ways that SDKs write one."""
    args = [node.func, *node.args]
    for at, word in enumerate(args):
        if isinstance(word, ast.Attribute) and (
            (word.attr == "_post" and _is_self(word.value)) or (word.attr == "post" and _is_client(word.value))
        ):
            yield said["path"] if at == 0 and "path" in said else args[at + 1] if at + 1 < len(args) else word
    if "post" in (_text(said.get("method")), _text(node.args[0] if node.args else None)):
        if "path" in said:
            yield said["path"]  # Google's second stack
        elif _text(said.get("method")):
            yield from node.args[:1]  # a list that is asked for with a POST
        elif isinstance(node.func, ast.Attribute):
            yield from node.args[1:2]


def _text(node: ast.expr | None) -> str:
    return node.value.lower() if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def _is_client(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "_client" and _is_self(node.value)


def _names(name: str, nodes: Iterable[ast.AST]) -> bool:
    return any(isinstance(node, ast.Name) and node.id == name for node in nodes)


def _paths(node: ast.expr, function: ast.AST) -> list[str]:
    """The paths that an expression may stand for, with names in braces for what is filled in, and without a query."""
    found: list[str] = []
    match node:
        case ast.Constant(value=str() as path):
            found = [path]
        case ast.JoinedStr(values=parts):
            found = ["".join(str(part.value) if isinstance(part, ast.Constant) else "{id}" for part in parts)]
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str() as path))):
            found = [path]  # "...".format(...)
        case ast.Call(args=[ast.Constant(value=str() as path), *_]):
            found = [path]  # path_template("...", ...)
        case ast.Name(id=name):
            for one in ast.walk(function):
                if isinstance(one, ast.Assign) and _names(name, one.targets) and not _names(name, ast.walk(one.value)):
                    found += _paths(one.value, ast.Module([], []))
    found = [path.partition("?")[0].replace("{{", "{").replace("}}", "}") for path in found]
    return list(dict.fromkeys(path if path.startswith("/") else f"/{path}" for path in found if path)) or [UNKNOWN_PATH]
