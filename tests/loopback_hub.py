"""A Hugging Face Hub on loopback, as far as gptft talks to one, that fails when it is told to.

It keeps everything in memory, checks what it is sent (digests, tokens, parents of commits), and logs each request.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "LoopbackTokenThatIsNotReal" * 2
USER = "tester"
LARGE = (".safetensors", ".png", ".gguf")
MODEL = r"/api/(models|datasets)/([^/]+/[^/]+)"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class File:
    content: bytes
    large: bool

    def facts(self, path: str) -> dict[str, Any]:
        oid, size = sha256(self.content), len(self.content)
        lfs = {"lfs": {"oid": oid, "size": size, "pointerSize": 130}} if self.large else {}
        return {"type": "file", "path": path, "size": size, "oid": self.digest if not self.large else "0" * 40, **lfs}

    @property
    def digest(self) -> str:
        """What the client compares with its own file."""
        return sha256(self.content) if self.large else git_digest(self.content)


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    writers: tuple[str, ...] = (TOKEN,)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)

    def commit(self, ref: str, files: dict[str, File], title: str) -> str:
        sha = hashlib.sha1(f"{title}{len(self.commits)}".encode()).hexdigest()
        self.commits[sha], self.refs[ref] = files, sha
        self.titles.append(title)
        return sha

    def find(self, revision: str) -> str | None:
        return self.refs.get(revision) or self.tags.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        sha = self.find(revision)
        return {path: file.content for path, file in self.commits[sha].items()} if sha else {}


@dataclass
class Fault:
    """What happens to requests (`METHOD /path?query`) that a pattern is found in, so many times."""

    pattern: str
    status: int = 0  # 0: the connection is cut in the middle of what is being sent
    times: int = 1
    code: str = ""
    message: str = "told to fail"


@dataclass
class Hub:
    url: str = ""
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def repo(self, name: str, kind: str = "models") -> Repo:
        return self.repos[kind, name]

    def add(self, name: str, kind: str = "models", files: dict[str, bytes] | None = None, **settings: Any) -> Repo:
        repo = self.repos[kind, name] = Repo(**settings)
        repo.commit("main", {path: File(body, path.endswith(LARGE)) for path, body in (files or {}).items()}, "first")
        return repo

    def asked(self, pattern: str) -> list[str]:
        return [request for request in self.requests if re.search(pattern, request)]


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str = "", body: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_request(self) -> None:
        request = f"{self.command} {self.path}"
        with self.hub.lock:
            self.hub.requests.append(request)
            fault = next((one for one in self.hub.faults if one.times and re.search(one.pattern, request)), None)
            if fault:
                fault.times -= 1
        if fault and not fault.status:
            self.rfile.read(min(int(self.headers.get("Content-Length") or 0) // 2, 1 << 16))
            self.close_connection = True
            self.connection.close()
            return
        try:
            body = self.body()
            if fault:
                raise Refusal(fault.status, fault.message, fault.code)
            with self.hub.lock:
                status, content, headers = self.route(body)
            self.answer(status, content, headers)
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message}
            self.answer(
                refusal.status,
                refusal.body or {"error": refusal.message},
                headers | ({"X-Error-Code": refusal.code} if refusal.code else {}),
            )

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    @property
    def token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def check_token(self) -> None:
        if self.token and not self.token.startswith(TOKEN):
            raise Refusal(401, "Invalid credentials in Authorization header")

    def visible(self, kind: str, name: str, write: bool = False) -> Repo:
        self.check_token()
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and not self.token):
            raise Refusal(404 if self.token else 401, "Repository not found", "RepoNotFound")
        if write and not self.token:
            raise Refusal(401, "Invalid username or password.")
        if write and self.token not in repo.writers:
            raise Refusal(403, "You don't have the rights to write here")
        return repo

    def revision(self, repo: Repo, revision: str) -> str:
        if sha := repo.find(revision):
            return sha
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def route(self, body: bytes) -> tuple[int, Any, dict[str, str]]:
        url = urlsplit(self.path)
        path, query = url.path, parse_qs(url.query)

        def value() -> dict[str, Any]:
            return json.loads(body or b"{}")

        routes: list[tuple[str, Callable[..., tuple[int, Any] | tuple[int, Any, dict[str, str]]]]] = [
            (r"/api/whoami-v2", self.who),
            (r"/api/validate-yaml", lambda: self.validate(value()["content"])),
            (r"/api/repos/create", lambda: self.create(value())),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", lambda name: self.batch(name, value()["objects"])),
            (r"/_lfs/([0-9a-f]{64})", lambda oid: self.store(oid, body)),
            (r"/_lfs/([0-9a-f]{64})/verify", lambda oid: (200 if oid in self.hub.blobs else 422, {})),
            (MODEL + r"/preupload/(.+)", lambda *names: self.preupload(*names, value()["files"])),
            (MODEL + r"/commit/(.+)", lambda *names: self.commit(*names, body, "create_pr" in query)),
            (MODEL + r"/branch/(.+)", lambda *names: self.branch(*names, value())),
            (MODEL + r"/tag/(.+)", lambda *names: self.tag(*names, value())),
            (MODEL + r"/refs", self.refs),
            (MODEL + r"/tree/([^/]+)(?:/(.+))?", self.tree),
            (MODEL + r"/revision/(.+)", self.info),
            (MODEL, lambda kind, name: self.info(kind, name, "main")),
            (r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
        ]
        for pattern, call in routes:
            if match := re.fullmatch(pattern, path):
                found = call(*(group and unquote(group) for group in match.groups()))
                return found if len(found) == 3 else (*found, {})
        raise Refusal(404, f"no route {self.command} {path}")

    def who(self) -> tuple[int, Any]:
        self.check_token()
        if not self.token:
            raise Refusal(401, "Invalid username or password.")
        return 200, {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    def validate(self, content: str) -> tuple[int, Any]:
        if not content.startswith("---\n"):
            raise Refusal(400, "no metadata", body={"errors": [{"message": "no metadata"}], "warnings": []})
        return 200, {"errors": [], "warnings": []}

    def create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        self.check_token()
        if not self.token:
            raise Refusal(401, "Invalid username or password.")
        owner = wanted.get("organization") or USER
        if owner not in (USER, "me"):
            raise Refusal(403, f"You don't have the rights to create a model under the namespace {owner}")
        name = f"{owner}/{wanted['name']}"
        url = f"{self.hub.url}/{name}"
        if ("models", name) in self.hub.repos:
            raise Refusal(409, "You already created this model repo", body={"error": "exists", "url": url})
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.add(name, private=private, files={".gitattributes": b"*.safetensors filter=lfs\n"})
        return 200, {"url": url, "name": name, "id": name}

    def batch(self, name: str, objects: list[dict[str, Any]]) -> tuple[int, Any]:
        self.visible("models", name, write=True)

        def actions(oid: str) -> dict[str, Any]:
            href = f"{self.hub.url}/_lfs/{oid}"
            return {"actions": {"upload": {"href": href, "header": {}}, "verify": {"href": f"{href}/verify"}}}

        known = self.hub.blobs
        listed = [{**one, **({} if one["oid"] in known else actions(one["oid"]))} for one in objects]
        return 200, {"transfer": "basic", "objects": listed}

    def store(self, oid: str, body: bytes) -> tuple[int, Any]:
        if sha256(body) != oid:
            raise Refusal(400, "digest mismatch")
        self.hub.blobs[oid] = body
        return 200, {}

    def preupload(self, kind: str, name: str, revision: str, files: list[dict[str, Any]]) -> tuple[int, Any]:
        repo = self.visible(kind, name, write=True)
        present = repo.commits.get(repo.find(revision) or "", {})
        return 200, {
            "files": [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    **({"oid": present[one["path"]].digest} if one["path"] in present else {}),
                }
                for one in files
            ]
        }

    def commit(self, kind: str, name: str, ref: str, body: bytes, pull_request: bool) -> tuple[int, Any]:
        repo = self.visible(kind, name, write=True)
        sha = self.revision(repo, ref)
        files, title = dict(repo.commits[sha]), ""
        for line in body.splitlines():
            entry = json.loads(line)
            what, value = entry["key"], entry["value"]
            if what == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, sha):
                    raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            elif what == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
            elif what == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
                files[value["path"]] = File(self.hub.blobs[value["oid"]], True)
            elif what == "deletedFile":
                del files[value["path"]]
        target = f"refs/pr/{sum(one.startswith('refs/pr/') for one in repo.refs) + 1}" if pull_request else ref
        new = repo.commit(target, files, title)
        request = {"pullRequestUrl": f"{self.hub.url}/{name}/discussions/{target.rpartition('/')[2]}"}
        answer = {"success": True, "commitOid": new, "commitUrl": f"{self.hub.url}/{name}/commit/{new}"}
        return 200, answer | (request if pull_request else {})

    def branch(self, kind: str, name: str, branch: str, wanted: dict[str, Any]) -> tuple[int, Any]:
        repo = self.visible(kind, name, write=True)
        if branch in repo.refs:
            raise Refusal(409, "Reference already exists")
        repo.refs[branch] = self.revision(repo, wanted.get("startingPoint", "main"))
        return 201, {}

    def tag(self, kind: str, name: str, revision: str, wanted: dict[str, Any]) -> tuple[int, Any]:
        repo = self.visible(kind, name, write=True)
        if wanted["tag"] in repo.tags:
            raise Refusal(409, "Tag already exists")
        repo.tags[wanted["tag"]] = self.revision(repo, revision)
        return 201, {}

    def refs(self, kind: str, name: str) -> tuple[int, Any]:
        repo = self.visible(kind, name)

        def listed(which: dict[str, str], prefix: str) -> list[dict[str, str]]:
            return [{"name": one, "ref": f"{prefix}{one}", "targetCommit": sha} for one, sha in which.items()]

        return 200, {
            "branches": listed(repo.refs, "refs/heads/"),
            "tags": listed(repo.tags, "refs/tags/"),
            "converts": [],
        }

    def tree(self, kind: str, name: str, revision: str, folder: str | None) -> tuple[int, Any]:
        repo = self.visible(kind, name)
        files = repo.commits[self.revision(repo, revision)]
        if folder and not any(path.startswith(f"{folder}/") for path in files):
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        return 200, [file.facts(path) for path, file in sorted(files.items()) if path.startswith(folder or "")]

    def info(self, kind: str, name: str, revision: str) -> tuple[int, Any]:
        repo = self.visible(kind, name)
        sha = self.revision(repo, revision)
        siblings = [{"rfilename": path} for path in sorted(repo.commits[sha])]
        return 200, {"id": name, "sha": sha, "private": repo.private, "gated": repo.gated, "siblings": siblings}

    def resolve(self, kind: str | None, name: str, revision: str, path: str) -> tuple[int, Any, dict[str, str]]:
        repo = self.visible(kind or "models", name)
        if repo.gated:
            raise Refusal(403, f"Access to model {name} is restricted", "GatedRepo")
        sha = self.revision(repo, revision)
        file = repo.commits[sha].get(path)
        if file is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        size = str(len(file.content))
        linked = {"X-Linked-ETag": f'"{file.digest}"', "X-Linked-Size": size} if file.large else {}
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.digest}"', "Accept-Ranges": "bytes", **linked}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), int(match[2] or len(file.content) - 1)
            part = {"Content-Range": f"bytes {first}-{last}/{size}"}
            return 206, file.content[first : last + 1], headers | part
        return 200, file.content, headers


@contextmanager
def loopback_hub() -> Iterator[Hub]:
    """Serve an empty Hub while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
