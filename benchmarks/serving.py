"""`gptft serve` under load: one client against many, 1,000 mixed requests, the server's memory.

The clients are threads with the `openai` package, in a process of their own beside the server's. Throughput: the shop's
test questions, greedy, tokens of whole answers a second; rounds of one client and of many take turns. Then the mixed
requests: whole and streamed chats, conversations, stop strings, sampling, texts to continue, a wrong model, a prompt of
100,000 characters, malformed JSON, clients that leave in the middle. Each greedy answer must be the same whenever it is
asked, each mistake get its status, and no request be lost. Memory is the server's resident set after every tenth.

    python benchmarks/serving.py [RUN] --rounds 3
    python benchmarks/serving.py --url http://localhost:8000/v1 --name NAME     # another server: throughput alone
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import psutil

ROWS = Path(__file__).parent.parent / "recipes" / "data" / "customer_service" / "test.jsonl"
KEY = "benchmark"


def questions() -> list[list[dict[str, str]]]:
    rows = [json.loads(line)["messages"] for line in ROWS.read_text("utf-8").splitlines()]
    return [row[:index] for row in rows for index, said in enumerate(row) if said["role"] == "assistant"]


class Load:
    """Requests to a server, from several threads."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name, self.questions = url, name, questions()
        self.client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=600)
        self.greedy: dict[int, set[str]] = {}
        self.outcomes: dict[str, int] = {}
        self.lock = threading.Lock()

    def ask(self, index: int, **options: Any) -> Any:
        messages = self.questions[index % len(self.questions)]
        return self.client.chat.completions.create(
            **{"model": self.name, "messages": messages, "temperature": 0, "max_tokens": 96} | options
        )

    def whole(self, index: int) -> int:
        answer = self.ask(index)
        self.same(index, answer.choices[0].message.content)
        return answer.usage.completion_tokens

    def same(self, index: int, text: str | None) -> None:
        with self.lock:
            self.greedy.setdefault(index % len(self.questions), set()).add(str(text).strip())

    def throughput(self, clients: int, requests: int) -> float:
        begin = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            tokens = sum(pool.map(self.whole, range(requests)))
        return tokens / (time.perf_counter() - begin)

    def mixed(self, index: int) -> None:
        """One request of a kind that its number decides; its outcome is counted, and anything else is raised."""
        draw = random.Random(index)
        kind = draw.choice(["whole", "stream", "stop", "sampled", "text", "leaves", *MISTAKES])
        if draw.random() < 0.5:
            kind = "whole" if kind in MISTAKES else kind
        if kind == "whole":
            self.whole(index)
        elif kind in ("stream", "leaves"):
            text = ""
            with self.ask(index, stream=True) as chunks:
                for number, chunk in enumerate(chunks):
                    text += chunk.choices[0].delta.content or ""
                    if kind == "leaves" and number == 3:
                        break
            if kind == "stream":
                self.same(index, text)
        elif kind == "stop":
            assert " you" not in self.ask(index, stop=[" you"]).choices[0].message.content
        elif kind == "sampled":
            options = {"temperature": 1.0, "top_p": 0.9, "seed": index}
            assert self.ask(index, **options).choices[0].finish_reason in ("stop", "length")
        elif kind == "text":
            prompt = self.questions[index % len(self.questions)][-1]["content"]
            assert self.client.completions.create(model=self.name, prompt=prompt, max_tokens=32).usage
        else:
            status = self.mistake(kind, index)
            assert status == MISTAKES[kind], f"{kind}: {status}"
        with self.lock:
            self.outcomes[kind] = self.outcomes.get(kind, 0) + 1

    def mistake(self, kind: str, index: int) -> int:
        if kind == "malformed JSON":
            address = urlsplit(self.url)
            connection = http.client.HTTPConnection(str(address.hostname), address.port)
            connection.request("POST", f"{address.path}/chat/completions", "{", {"Authorization": f"Bearer {KEY}"})
            return connection.getresponse().status
        options: dict[str, Any] = {
            "wrong model": {"model": "gpt-4o"},
            "wrong key": {"extra_headers": {"Authorization": "Bearer wrong"}},
            "long prompt": {"messages": [{"role": "user", "content": "word " * 20_000}]},
        }[kind]
        try:
            self.ask(index, **options)
        except openai.APIStatusError as error:
            return error.status_code
        return 200


MISTAKES = {"wrong model": 404, "wrong key": 401, "long prompt": 400, "malformed JSON": 400}


def start(run: str | None) -> tuple[Any, str, str]:
    """The server's process, address and model."""
    command = [sys.executable, "-m", "gptft", "serve", *([run] if run else []), "--port", "0"]
    process = subprocess.Popen(command, env=os.environ | {"GPTFT_API_KEY": KEY}, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if found := re.search(r"Serving (.+) at (\S+)", line):
            return process, found[2], found[1]
    raise SystemExit("The server did not start.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=96, help="of a round of many clients; one sends a quarter")
    parser.add_argument("--mixed", type=int, default=1000)
    parser.add_argument("--url")
    parser.add_argument("--name")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"), help="folder of the JSON file")
    arguments = parser.parse_args()
    process, url, name = (None, arguments.url, arguments.name) if arguments.url else start(arguments.run)
    result: dict[str, Any] = {"date": str(date.today()), "machine": platform.processor(), "model": name}
    try:
        load = Load(url, name)
        load.throughput(1, 4)
        one, many = [], []
        for number in range(arguments.rounds):
            one.append(load.throughput(1, max(1, arguments.requests // 4)))
            many.append(load.throughput(arguments.clients, arguments.requests))
            print(
                f"round {number + 1}: 1 client {one[-1]:.1f} tokens/s, {arguments.clients} clients {many[-1]:.1f}",
                flush=True,
            )
        ratios = [all_ / single for all_, single in zip(many, one, strict=True)]
        print(f"ratio {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
        result |= {"one": one, "many": many, "clients": arguments.clients, "ratios": ratios}
        if process:
            memory = [resident(process)]
            begin = time.perf_counter()
            share = max(1, arguments.mixed // 10)
            for first in range(0, arguments.mixed, share):
                with ThreadPoolExecutor(arguments.clients) as pool:
                    list(pool.map(load.mixed, range(first, min(first + share, arguments.mixed))))
                memory.append(resident(process))
            seconds = time.perf_counter() - begin
            answered = sum(load.outcomes.values())
            print(f"{answered} of {arguments.mixed} mixed requests answered in {seconds:.0f} s: {load.outcomes}")
            print("resident MB: " + ", ".join(f"{size / 1e6:.0f}" for size in memory))
            result |= {"mixed": load.outcomes, "seconds": seconds, "resident_bytes": memory}
        different = sum(len(texts) > 1 for texts in load.greedy.values())
        print(f"{len(load.greedy)} questions asked greedily again and again: {different} with more than one answer")
        result |= {"questions": len(load.greedy), "questions_with_several_answers": different}
    finally:
        if process:
            process.terminate()
            process.wait()
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / f"serving-{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(file)


def resident(process: Any) -> int:
    return psutil.Process(process.pid).memory_info().rss


if __name__ == "__main__":
    main()
