"""An inspection as one HTML page that needs nothing else, and its histogram as a picture."""

from __future__ import annotations

import base64
import io
from html import escape

from gptft.inspection.inspect import Inspection
from gptft.inspection.view import about_prompts, histogram, tables

_STYLE = """
:root { color-scheme: light dark; --said: #d3efd8; --special: #ded9f7; --line: #8884; }
@media (prefers-color-scheme: dark) { :root { --said: #1d4a2a; --special: #3b3468; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
td:first-child, th:first-child { text-align: left; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); padding: .7rem; }
span { outline: 1px dotted var(--line); }
.supervised { background: var(--said); } .special { background: var(--special); }
.supervised.special { background: var(--said); font-weight: bold; } img { max-width: 100%; }
.error b { color: #c22; } .warning b { color: #a60; }
"""


def picture(found: Inspection) -> bytes:
    """The histogram of lengths as PNG, readable on light and on dark."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(found.basics.lengths["train"].lengths, bins=40, color="#4a90d9")
    axes.set(xlabel="tokens", ylabel="examples of train")
    axes.xaxis.label.set_color("gray")
    axes.yaxis.label.set_color("gray")
    axes.tick_params(colors="gray")
    for edge in axes.spines.values():
        edge.set_color("gray")
    axes.patch.set_alpha(0)
    figure.patch.set_alpha(0)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def page(found: Inspection) -> str:
    """The page."""
    title = f"{escape(found.recipe.name)}: what the model sees"
    parts = [f"<h1>{title}</h1>", "<h2>Findings</h2>"]
    for finding in found.findings:
        words = f"<b>{finding.level}: {finding.name}</b><br>{escape(finding.sentences())}"
        parts.append(f'<p class="{finding.level}">{words}</p>')
    parts += [] if found.findings else ["<p>Nothing to warn of.</p>"]
    parts.append(f"<p>Accepted by the recipe: {escape(', '.join(found.recipe.data.accept) or 'nothing')}.</p>")
    parts.append(
        '<h2>Examples</h2><p><span class="supervised">supervised</span>, <span class="special">special</span>, '
    )
    parts.append(f"<span>context</span>. {escape(about_prompts(found))}</p>")
    for example in found.basics.examples:
        tokens = "".join(f'<span class="{kind}">{escape(text)}</span>' for text, kind in example.pieces)
        parts.append(f"<h3>{escape(example.origin or 'first row')}</h3><pre>{tokens}</pre>")
        parts += [f"<p>Label: {escape(example.label)}</p>"] if example.label else []
        parts += [f"<p>The prompt at inference:</p><pre>{escape(example.prompt)}</pre>"] if example.prompt else []
    image = base64.b64encode(picture(found)).decode()
    said = ", ".join(f"{place}: {count:,}" for place, count in histogram(found))
    parts.append(f'<h2>Lengths</h2><img alt="{escape(said)}" src="data:image/png;base64,{image}">')
    for table in tables(found):
        head = "".join(f"<th>{escape(name)}</th>" for name in table.head)
        rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
        parts.append(f"<h2>{escape(table.title)}</h2><table><tr>{head}</tr>{rows}</table>")
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>{title}</title>\n<style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">{head}\n{body}\n</html>\n'
