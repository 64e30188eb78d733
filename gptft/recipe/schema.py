"""What a recipe may say. Each description is written once, here: it feeds errors, help, JSON schema and reference page.

The sections that belong to Hugging Face classes (`training`, `generation`, `model.config`, the adapter's settings) are
plain mappings in these models; `gptft.recipe.fields` knows their keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PrivateAttr, Tag, model_validator

Task = Literal["dialogue", "pretraining", "classification", "completion"]

DEFAULT_METRICS: dict[str, list[str]] = {
    "dialogue": ["bleu", "chrf", "exact_match", "stop_rate", "perplexity"],
    "pretraining": ["perplexity", "bits_per_byte"],
    "classification": ["accuracy", "f1", "mcc", "calibration_error"],
    "completion": ["bleu", "chrf", "exact_match", "stop_rate", "perplexity"],
}
"""The metrics of a task whose recipe names none."""

PROBLEM_METRICS: dict[str, list[str]] = {
    "multi_label_classification": ["accuracy", "f1", "f1:average=micro"],
    "regression": ["mae", "mse", "pearsonr"],
}
"""Those of a classification with another kind of label."""

Columns = dict[Literal["messages", "conversations", "prompt", "completion", "text", "label"], str]
"""gptft's name of a column -> the data set's."""


class Section(BaseModel):
    """A part of a recipe: exact types, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_absent(cls, value: Any) -> Any:
        """A key with nothing after it, all below it commented out, is as if left out."""
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        if not isinstance(value, dict):
            return value
        return {key: part for key, part in value.items() if part is not None or key not in optional}


class ModelSection(Section):
    """The model to start from."""

    base: str | None
    """The model to start from: a Hub id, a model folder, a run folder, or `starter` (the small GPT-2 that ships with
    gptft); null trains from scratch a GPT-2 of the shape in `config`."""
    revision: str | None = None
    """Branch, tag or commit of the base on the Hub."""
    fallback: Literal["starter"] | None = None
    """`starter`: start from the embedded model, and say so, when the base is not cached and the Hub does not answer."""
    tokenizer: str | None = None
    """Hub id or folder of a tokenizer other than the base's own. From scratch without one, a byte-level BPE is trained
    on the training data."""
    vocab_size: int = Field(default=8192, ge=257)
    """Number of tokens of the tokenizer that is trained on the data, from scratch with no `tokenizer` named."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of computation; weights stay in float32. `auto`: bfloat16 where the hardware is fast at it, else
    float32."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fields of the model's configuration (GPT2Config) that differ from the base's; the shape when from scratch."""
    trust_remote_code: bool = False
    """Run Python code that comes with the base. Only for a base whose author you trust."""


class AdapterSection(Section):
    """A PEFT adapter; when left out, all weights are trained. Other keys are the fields of the named PEFT config."""

    model_config = ConfigDict(extra="allow")

    type: str
    """PEFT's name of the adapter, lower case, such as `lora`."""

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of the PEFT config that the recipe sets."""
        return dict(self.model_extra or {})


class Source(Section):
    """One place that rows come from."""

    path: str
    """A file (.jsonl, .csv, .parquet, .txt, also .gz), a folder or a glob, relative to the recipe; or a data set's name
    on the Hub. `$NAME` is replaced by the environment variable."""
    name: str | None = None
    """Configuration of a Hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set."""
    split: str | None = None
    """Split of a Hub data set (default: `train`, `validation` or `test`, like the key it stands under)."""
    columns: Columns = Field(default_factory=dict)
    """gptft's column name -> this source's, over those of `data.columns`."""
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """How often each row of this source is trained on: 2.0 takes each twice, 0.5 about half of them, chosen by a hash
    of their content."""


def _as_source_list(value: Any) -> Any:
    """Write the short forms of a source (a string, one mapping) as the list of mappings that they stand for."""
    if isinstance(value, (str, dict, Source)):
        value = [value]
    if isinstance(value, list):
        return [{"path": item} if isinstance(item, str) else item for item in value]
    return value


def _share_or_sources(value: Any) -> str:
    return "share" if isinstance(value, (int, float)) else "sources"


SourceInput = str | Source | list[str | Source]
Sources = Annotated[
    list[Source], Field(min_length=1), BeforeValidator(_as_source_list, json_schema_input_type=SourceInput)
]
Share = Annotated[float, Field(gt=0, lt=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
HeldOut = (
    Annotated[Annotated[Share, Tag("share")] | Annotated[Sources, Tag("sources")], Discriminator(_share_or_sources)]
    | None
)


class TemplateSection(Section):
    """How a row's columns become the text that the model reads and the text that it learns to write.

    `{name}` stands for a column; `{{` and `}}` for braces. The prompt at inference is made by the same template.
    """

    prompt: str | None = None
    """What the model reads, such as `"English: {en}\\nChinese:"`. Default: `{text}` for classification, `{prompt}` and
    a line end for completion."""
    completion: str | None = None
    """What it learns to write: `" {zh}"`. Default: `{completion}`. (Task completion only.)"""
    truncation_side: Literal["left", "right"] = "left"
    """Which end of a prompt that is too long goes: its beginning, or the end of what stands before the template's last
    words (`right`: for texts that say the most important things first, such as news)."""


class ClassificationSection(Section):
    """What the labels are and how the model gives them, in the task classification."""

    head: Literal["sequence", "lm"] = "sequence"
    """`sequence`: a new layer on the last token (GPT2ForSequenceClassification). `lm`: the language model's own logits
    over one word for each label at the last position, so that a label is a word that the model already knows."""
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] = (
        "single_label_classification"
    )
    """transformers' name: one label a row; any number of them (a list, or text with `|` between them); or a number."""
    labels: list[str] | None = Field(default=None, min_length=2)
    """The labels in the order of their ids (default: those of train, sorted)."""
    label_words: dict[str, str] = Field(default_factory=dict)
    """Label -> the word that stands for it with `head: lm` (default: the first word of the label that no other has)."""
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]] | None = None
    """Weight of each label's rows in the loss: `balanced` (in inverse proportion to how often it occurs, as in
    scikit-learn), or label -> weight (others: 1)."""
    out_of_scope: str | None = None
    """The label that is given where no other reaches `threshold`. Rows with this label may be in train or not."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """Single label: the probability below which the answer is `out_of_scope`. Several labels: the probability from
    which a label is given (default: 0.5)."""
    language_model_weight: float = Field(default=0.0, ge=0)
    """Weight of the language-modelling loss on the text, beside that of the labels, as in the first GPT (Radford et al.
    2018, 0.5): it helps where rows are few. Only with `head: lm`."""


class CleaningSection(Section):
    """What is removed or repaired before training; each is counted in the report."""

    unicode_nfc: bool = True
    """Write accented letters in one way (Unicode NFC)."""
    control_characters: bool = True
    """Remove control characters other than tab and line end."""
    empties: bool = True
    """Remove rows without text."""
    duplicates: bool = True
    """Remove rows that repeat an earlier one exactly."""


class DataSection(Section):
    """The data to train on, to watch and to score with. A source is a path, a glob, a Hub name, or a mapping."""

    train: Sources
    """Rows to train on: one source, or a list (a mixture)."""
    validation: HeldOut = None
    """Rows that the loss is measured on during training: a share of train (0.1 is a tenth) or sources of their own."""
    test: HeldOut = None
    """Rows that scores come from at the end: a share of train or sources of their own."""
    streaming: bool = False
    """Read train while training, for more data than disk or memory hold: nothing is kept. The first `buffer_rows` are
    what is inspected and reported."""
    buffer_rows: int = Field(default=10_000, ge=1)
    """With `streaming`: so many rows are mixed with each other at a time."""
    max_length: int | None = Field(default=None, ge=2)
    """Longest example in tokens (default: the positions of the model). Of a longer one the oldest context goes."""
    columns: Columns = Field(default_factory=dict)
    """gptft's column name -> yours, where your columns have other names: `{prompt: question, completion: answer}`."""
    cleaning: CleaningSection = Field(default_factory=CleaningSection)
    """What is removed or repaired before training."""
    seed: int = 0
    """Seed of the splits by share and of mixtures. (Training has `training.seed`.)"""
    accept: list[str] = Field(default_factory=list)
    """Names of findings (`gptft inspect` prints them) that are meant so: they are neither printed nor stop training."""


class EvaluationSection(Section):
    """How the result is scored."""

    metrics: list[str] = Field(default_factory=list)
    """Scores to compute, by name, with options after a colon (`bleu:tokenize=zh`, `f1:average=micro`), or any name or
    path for `evaluate.load`. `gptft eval --help` lists gptft's own; the default depends on the task."""
    generation: dict[str, Any] = Field(default_factory=dict)
    """Fields of transformers' GenerationConfig: how answers are generated for scores, and in chat."""
    max_rows: int | None = Field(default=None, ge=1)
    """At most so many rows are answered for scores: generated, labelled or ranked (likelihoods read all rows)."""
    during_training: int | None = Field(default=None, ge=1)
    """Answers to so many validation prompts are generated at each evaluation in training and scored by `metrics`, which
    `training.metric_for_best_model` can then name. (Labels are scored at each evaluation anyway.)"""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Stop when `training.metric_for_best_model` (default: loss) has not got better in so many evaluations; the model
    of the best one is kept."""
    early_stopping_threshold: float = Field(default=0.0, ge=0)
    """How much better it must get to count."""


class HubSection(Section):
    """Where the result is published on the Hugging Face Hub: by `gptft push`, or by the training itself."""

    repo_id: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")
    """The repository, as in `me/my-model`; it is made if it is not there."""
    private: bool = False
    """Whether only you see it, where it is made anew."""
    revision: str | None = None
    """The branch to push to (default: `main`); it is made if it is not there."""
    license: str | None = None
    """The licence of the result, by the Hub's name for it: `mit`, `cc-by-sa-4.0`, `other` (default: the base's)."""
    language: list[str] | str | None = None
    """Its language, or a list of them, by their ISO codes: `en` (default: the base's)."""
    strategy: Literal["end", "every_save"] | None = None
    """`end`: the training pushes its result. `every_save`: what each checkpoint holds of the model, too, while the
    training goes on. Left out, nothing is published before `gptft push`."""


class Range(Section):
    """Numbers from `low` to `high`, both among them: whole ones where both ends are whole."""

    low: int | Finite
    """The least."""
    high: int | Finite
    """The greatest."""
    log: bool = False
    """Draw evenly over orders of magnitude, as suits a learning rate."""
    step: Annotated[int, Field(gt=0)] | Annotated[Finite, Field(gt=0)] | None = None
    """Only `low`, `low` + `step`, and so on."""

    @property
    def whole(self) -> bool:
        """Whether they are whole numbers."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))

    @property
    def count(self) -> int | None:
        """How many values there are, if they can be counted."""
        return round((self.high - self.low) / (self.step or 1)) + 1 if self.step or self.whole else None


class SweepSection(Section):
    """What `gptft sweep` tries; `gptft finetune` trains with the recipe's own values."""

    ranges: dict[str, Range | Annotated[list[Any], Field(min_length=1)]] = Field(min_length=1)
    """Any key, as on the command line (`training.learning_rate`) -> a list of choices, or `{low: 1e-5, high: 1e-3}`
    with `log: true` or a `step`."""
    metric: str = "loss"
    """What is the best: the validation loss, or what else each evaluation in training measures (as for
    `training.metric_for_best_model`)."""
    direction: Literal["minimize", "maximize"] | None = None
    """Whether less or more is better (default: as the metric has it)."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """`tpe`: ten drawn at random, then more like the best (Tree-structured Parzen Estimator). `grid`: all combinations,
    in random order."""
    pruner: Literal["median", "none"] = "median"
    """`median`: once five trials have finished, one that is worse than their median after as many evaluations is
    stopped."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampler."""


class Recipe(Section):
    """One fine-tuning, from base and data to scores."""

    name: str = Field(default="", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    """Name of the runs (default: the file's name): letters, digits, `.`, `_` and `-`."""
    description: str | None = None
    """What the recipe is for, in one sentence."""
    task: Task
    """What is learned: `dialogue` (answers of an assistant), `completion` (text to text), `classification` (labels or
    numbers) or `pretraining` (text as such)."""
    model: ModelSection
    """The model to start from."""
    adapter: AdapterSection | None = None
    """A PEFT adapter, such as `{type: lora, r: 16}`; when left out, all weights are trained."""
    data: DataSection
    """The data to train on, to watch and to score with."""
    template: TemplateSection = Field(default_factory=TemplateSection)
    """How a row's columns become prompt and completion. (Tasks classification and completion.)"""
    classification: ClassificationSection = Field(default_factory=ClassificationSection)
    """What the labels are and how the model gives them. (Task classification.)"""
    training: dict[str, Any] = Field(default_factory=dict)
    """Fields of transformers.TrainingArguments: same names, same meaning, same defaults unless said otherwise."""
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    """How the result is scored."""
    hub: HubSection | None = None
    """Where the result is published on the Hugging Face Hub."""
    sweep: SweepSection | None = None
    """What `gptft sweep` tries."""

    _source: Path | None = PrivateAttr(default=None)

    @property
    def source(self) -> Path | None:
        """The file that the recipe was read from; None for one made in Python."""
        return self._source

    @property
    def folder(self) -> Path:
        """The folder that relative paths start from: the recipe file's, else the current one."""
        return self._source.parent if self._source else Path.cwd()

    @model_validator(mode="after")
    def _fill_defaults(self) -> Recipe:
        if "metrics" not in self.evaluation.model_fields_set:
            kind = self.classification.problem_type if self.task == "classification" else ""
            self.evaluation.metrics = list(PROBLEM_METRICS.get(kind, DEFAULT_METRICS[self.task]))
        self.name = self.name or "recipe"
        return self
