"""The application behind the page: it answers requests from this machine with songs, maps, tags and audio."""

import contextlib
import dataclasses
import functools
import json
import logging
import mimetypes
import stat
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clmr_tf.browse.layout import Layout, LayoutFile
from clmr_tf.browse.similar_songs import best_matches, near_duplicates, similarities
from clmr_tf.console import printable
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.inference.encoder import Tagger
from clmr_tf.inference.library import Library
from clmr_tf.inference.teaching import Teacher
from clmr_tf.models.heads import probabilities
from clmr_tf.models.taught_tags import TaughtTag

_LOG = logging.getLogger(__name__)
PAGE = Path(__file__).parent / "page"
ALLOWED_HOSTS = ("127.0.0.1", "localhost")

_MAX_COLUMNS_OF_TAGGRAM = 600
_MAX_MODEL_TAGS_OF_TAGGRAM = 8
_MAX_FOUND = 500
_MAX_PAIRS, _LEAST_COSINE_OF_PAIRS = 200, 0.98
_MAX_BYTES_OF_REQUEST = 2**20
_MAX_DIGITS = 18
# No other page may show, read or send anything, and this one asks no other host.
_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Browser:
    """What the page can ask for.

    Args:
        library: The songs.
        tagger: Tags of the model, if it has any.
    """

    def __init__(self, library: Library, tagger: Tagger | None = None) -> None:
        self._library, self._tagger = library, tagger
        self._teacher = Teacher(library)
        self._layout_file = LayoutFile(library)
        self._layout = self._layout_file.first()
        self._changing = threading.Lock()

    def require_same_table(self, request: Request) -> None:
        """Raises HTTPException if a page has the rows of another table than that of now."""
        if request.query_params.get("table", self._layout_file.key) != self._layout_file.key:
            raise HTTPException(409, "The table has changed; reload the page.")

    def complete_layout(self) -> Layout:
        """The map with t-SNE, which is computed if it is missing; if that fails, with principal components instead."""
        if self._layout.tsne is None:
            try:
                self._layout = self._layout_file.complete(self._layout)
            except Exception as error:  # noqa: BLE001 - the page works without it, whatever the library raises
                _LOG.warning("t-SNE failed (%s), so the map shows principal components.", error)
                self._layout = dataclasses.replace(self._layout, tsne=self._layout.pca)
        return self._layout

    def probabilities(self) -> dict[str, np.ndarray]:
        """Probabilities of all tags by name, float32 [songs]."""
        names = self._tagger.tag_names if self._tagger else ()
        of_model = {name: self._probabilities_of_model[:, column] for column, name in enumerate(names)}
        taught = self._teacher.read()
        return of_model | {name: self._teacher.probabilities(taught.tags[name]) for name in taught.names}

    def songs(self, request: Request) -> Response:
        """All songs and skipped files, in the order of all other answers."""
        library = self._library
        return JSONResponse(
            {
                "table": printable(library.table.name),
                "key": self._layout_file.key,
                "window_seconds": library.window_seconds,
                "paths": list(library.paths),
                "durations_seconds": np.round(library.durations_seconds, 2).tolist(),
                "silent": np.flatnonzero(library.is_silent).tolist(),
                "lost_seconds": {int(row): library.lost_seconds[row] for row in np.flatnonzero(library.lost_seconds)},
                "cluster": self._layout.cluster.tolist(),
                "skipped": library.skipped,
            }
        )

    def layout(self, request: Request) -> Response:
        """float32 [songs, 2]: t-SNE, or principal components until it is ready."""
        wants_pca = request.query_params.get("kind") == "pca"
        tsne = None if wants_pca else self._layout.tsne
        positions = self._layout.pca if tsne is None else tsne
        return _floats(positions, {"x-layout": "pca" if tsne is None else "tsne"})

    def tags(self, request: Request) -> Response:
        """The tags of the model and the taught ones."""
        model = [{"name": name, "is_taught": False} for name in (self._tagger.tag_names if self._tagger else ())]
        return JSONResponse(
            [*model, *(_described(name, tag) for name, tag in sorted(self._teacher.read().tags.items()))]
        )

    def tag(self, request: Request) -> Response:
        """float32 [songs]: the probabilities of a tag; those of the model are of the mean embedding too."""
        name = request.query_params.get("name", "")
        if request.query_params.get("taught") == "true":
            return _floats(self._teacher.probabilities(self._teacher.require(name)))
        if self._tagger is None or name not in self._tagger.tag_names:
            raise UsageError(f"The model has no tag {name!r}.")
        return _floats(self._probabilities_of_model[:, self._tagger.tag_names.index(name)])

    @functools.cached_property
    def _probabilities_of_model(self) -> np.ndarray:
        return self._tagger.probabilities(self._library.means)

    def taggram(self, request: Request) -> Response:
        """The tags of a song over time; columns of a long song are joined, and keep the greatest probability."""
        times_seconds, vectors = self._library.windows_of(self._row(request))
        names: list[str] = []
        rows: list[np.ndarray] = []
        taught = self._teacher.read()
        if taught.names:
            names += taught.names
            rows += list(probabilities(taught.head.logits(vectors), single_label=False).T)
        if self._tagger:
            values = self._tagger.probabilities(vectors)
            for column in np.argsort(-values.mean(axis=0), kind="stable")[:_MAX_MODEL_TAGS_OF_TAGGRAM]:
                names.append(self._tagger.tag_names[column])
                rows.append(values[:, column])
        num_joined = -(-len(times_seconds) // _MAX_COLUMNS_OF_TAGGRAM)
        first = np.arange(0, len(times_seconds), num_joined)
        joined = np.maximum.reduceat(np.array(rows), first, axis=1) if rows else np.zeros((0, len(first)))
        return JSONResponse(
            {
                "times_seconds": times_seconds[first].tolist(),
                "names": names,
                "num_taught": len(taught.names),
                "probabilities": np.round(joined.astype(np.float64), 4).tolist(),
            }
        )

    def similarities(self, request: Request) -> Response:
        """float32 [songs]: how similar all songs are to some, and not to others."""
        return _floats(similarities(self._library, self._like(request), self._rows(request, "unlike")))

    def matches(self, request: Request) -> Response:
        """Why songs are similar to some."""
        found = best_matches(self._library, self._like(request), self._rows(request, "rows"))
        return JSONResponse([dataclasses.asdict(one) for one in found])

    def duplicates(self, request: Request) -> Response:
        """Pairs of songs that may be the same, and how many there are."""
        pairs, num_pairs = self._duplicates
        return JSONResponse({"pairs": [dataclasses.asdict(pair) for pair in pairs], "num_pairs": num_pairs})

    @functools.cached_property
    def _duplicates(self) -> tuple[Sequence[Any], int]:
        return near_duplicates(self._library, _LEAST_COSINE_OF_PAIRS, _MAX_PAIRS)

    def offers(self, request: Request) -> Response:
        """Rows of the songs that would teach a tag most."""
        tag = self._teacher.read().tags.get(request.query_params.get("name", ""), TaughtTag())
        return JSONResponse(self._teacher.offers(tag, _count(request)))

    def mark(self, content: Any) -> TaughtTag:
        """Adds {"name", "marks": [{"row" or "path", "answer", "seconds"}]} as one change."""
        marks = [
            self._teacher.mark_of(self._path(mark), mark["answer"], mark.get("seconds")) for mark in content["marks"]
        ]
        return self._teacher.mark(content["name"], marks)

    def undo(self, content: Any) -> TaughtTag:
        """Takes back the last change of {"name"}."""
        return self._teacher.undo(content["name"])

    def remove(self, content: Any) -> TaughtTag:
        """Removes the tag {"name"}."""
        self._teacher.remove(content["name"])
        return TaughtTag()

    async def change(self, change: Callable[[Any], TaughtTag], request: Request) -> Response:
        """Runs one of the three changes above, one at a time."""
        self.require_same_table(request)
        content = await _json_of(request)

        def run() -> TaughtTag:
            with self._changing:
                return change(content)

        try:
            tag = await run_in_threadpool(run)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise HTTPException(400, "The request is malformed.") from error
        return JSONResponse(_described(content["name"], tag))

    def audio(self, request: Request) -> Response:
        """The file of a song, whole or in ranges, if it is the one that was embedded."""
        row = self._row(request)
        path = Path(self._library.paths[row])
        try:
            found = path.stat()
        except OSError as error:
            raise HTTPException(
                404, f"{path} cannot be read ({error.strerror}); has it been moved, or is its name not UTF-8?"
            ) from error
        if not stat.S_ISREG(found.st_mode) or not self._library.is_unchanged(row, found):
            raise HTTPException(
                409, f"{path} has changed since it was embedded; run `python -m clmr_tf.embed` with --update."
            )
        # A browser would run the scripts of a page or picture whose name says so.
        guessed, _ = mimetypes.guess_type(path.name)
        is_media = guessed is not None and guessed.startswith(("audio/", "video/"))
        return FileResponse(path, stat_result=found, media_type=guessed if is_media else "application/octet-stream")

    def _row(self, request: Request) -> int:
        return self._row_of(request.path_params["row"])

    def _row_of(self, word: str) -> int:
        if not _is_number(word) or int(word) >= len(self._library.paths):
            raise HTTPException(404, "There is no such song in the table.")
        return int(word)

    def _path(self, mark: Any) -> str:
        if "path" in mark:
            return mark["path"]
        row = mark["row"]
        if not isinstance(row, int) or not 0 <= row < len(self._library.paths):
            raise HTTPException(404, "There is no such song in the table.")
        return self._library.paths[row]

    def _like(self, request: Request) -> list[int]:
        like = self._rows(request, "like")
        if not like:
            raise UsageError("Choose at least one song to find similar songs for.")
        return like

    def _rows(self, request: Request, name: str) -> list[int]:
        words = [word for word in request.query_params.get(name, "").split(",") if word]
        return [self._row_of(word) for word in words][:_MAX_FOUND]


def make_application(browser: Browser) -> ASGIApp:
    """The application; it computes the missing part of the map while it runs."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # The process may end before it does.
        threading.Thread(target=browser.complete_layout, daemon=True).start()
        yield

    def of_same_table(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            browser.require_same_table(request)
            return answer(request)

        return endpoint

    def changes(change: Callable[[Any], TaughtTag]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            return await browser.change(change, request)

        return endpoint

    routes = [
        Route("/api/songs", browser.songs),
        Route("/api/layout", of_same_table(browser.layout)),
        Route("/api/tags", of_same_table(browser.tags)),
        Route("/api/tag", of_same_table(browser.tag)),
        Route("/api/songs/{row}/taggram", of_same_table(browser.taggram)),
        Route("/api/songs/{row}/audio", of_same_table(browser.audio)),
        Route("/api/similarities", of_same_table(browser.similarities)),
        Route("/api/matches", of_same_table(browser.matches)),
        Route("/api/duplicates", of_same_table(browser.duplicates)),
        Route("/api/offers", of_same_table(browser.offers)),
        Route("/api/mark", changes(browser.mark), methods=["POST"]),
        Route("/api/undo", changes(browser.undo), methods=["POST"]),
        Route("/api/remove", changes(browser.remove), methods=["POST"]),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=ALLOWED_HOSTS, www_redirect=False),
            Middleware(_WithHeaders),
        ],
        exception_handlers={ClmrError: _sentence, HTTPException: _sentence, OSError: _sentence},
    )


class _WithHeaders:
    """Adds the headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _sentence(request: Request, error: Exception) -> Response:
    sentence, status = str(error), 400
    if isinstance(error, HTTPException):
        sentence, status = error.detail, error.status_code
    elif isinstance(error, OSError):
        sentence, status = f"{error.filename} cannot be read or written ({error.strerror}).", 500
    return JSONResponse({"error": printable(sentence)}, status)


async def _json_of(request: Request) -> Any:
    # A page of another host can send a form, but needs our permission, which is never given, to send JSON.
    if request.headers.get("content-type") != "application/json":
        raise HTTPException(415, "Changes are sent as JSON.")
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > _MAX_BYTES_OF_REQUEST:
            raise HTTPException(413, "This request is too large.")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "This request is not JSON, or is nested too deeply.") from error


def _count(request: Request) -> int:
    word = request.query_params.get("count", "50")
    if not _is_number(word):
        raise HTTPException(400, f"The count must be a number of at most {_MAX_DIGITS} digits.")
    return min(int(word), _MAX_FOUND)


def _is_number(word: str) -> bool:
    # Python refuses to convert very long numbers.
    return word.isdecimal() and len(word) <= _MAX_DIGITS


def _floats(values: np.ndarray, headers: dict[str, str] | None = None) -> Response:
    return Response(values.astype("<f4").tobytes(), media_type="application/octet-stream", headers=headers)


def _described(name: str, tag: TaughtTag) -> dict[str, Any]:
    return {
        "name": name,
        "is_taught": True,
        "has_head": tag.head is not None,
        "num_changes": len(tag.changes),
        "marks": [dataclasses.asdict(mark) for mark in tag.marks],
        "precision": tag.precision and dataclasses.asdict(tag.precision),
    }
