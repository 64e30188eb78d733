"""What `gptft inspect` can find in data and settings: names that stay, why it matters, what to change.

Here and not beside the code that finds, because a recipe accepts findings by name (`data.accept`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["error", "warning", "note"]


class Kind(NamedTuple):
    """One thing that can be found."""

    level: Level
    """An error stops `gptft finetune`; a note says what may well be meant."""
    why: str
    change: str
    """Which key to change, or what to do with the data."""


FINDINGS: dict[str, Kind] = {
    # What would be learned.
    "answers_never_end": Kind("error", "The closing token is not trained, so the model would not learn to stop.",
        "give the base's chat template an end-of-text token after each assistant turn (tokenizer.chat_template)"),
    "prompt_not_prefix": Kind("error", "The model would be asked with other tokens than it was trained with.",
        "use a chat template whose generation prompt is how it writes the assistant's turn"),
    "answers_dropped": Kind("warning", "An answer that does not fit is left out: long answers are not learned.",
        "raise data.max_length, or shorten these answers"),
    "context_cut": Kind("warning", "What the answer depends on may have been cut off.",
        "raise data.max_length, or choose the end that goes: template.truncation_side"),
    "end_of_text_written": Kind("warning",
        "The end-of-text token stands in the data as text: it is read as characters, and no row ends there.",
        "split these rows into several, or remove the token from the data"),
    "prompt_ends_in_space": Kind("warning",
        "In GPT-2's vocabulary the space belongs to the word after it, so a prompt that ends in one misleads.",
        "move the space from the end of template.prompt to the start of template.completion"),
    "foreign_tokenizer": Kind("note",
        "The tokenizer was made for other text: sequences get long, and the model has seen few of these tokens.",
        "choose another model.base, or train from scratch with a tokenizer of your own (model.base: null)"),
    # Rows.
    "empty_rows": Kind("warning", "Rows without a prompt or an answer are dropped.",
        "fill these rows, or remove them from the file"),
    "empty_turns": Kind("warning", "The model would learn to say nothing.",
        "remove the turns of the assistant that are empty"),
    "empty_system_prompt": Kind("warning", "The model would learn that an empty system turn comes first.",
        "remove the system turns without text"),
    "same_role_twice": Kind("warning", "Turns of one role follow each other, as the model would then do itself.",
        "join such turns into one"),
    "mixed_first_role": Kind("warning",
        "Some conversations begin with the assistant, though most do not: turns may be missing or their roles swapped.",
        "look at these rows: are user and assistant swapped?"),
    "one_answer": Kind("error", "All answers are equal: the model would learn to say this, whatever it is asked.",
        "check data.columns"),
    "frequent_answer": Kind("warning", "The model would learn to give this answer often, whatever it is asked.",
        "keep fewer of these rows"),
    "answer_in_prompt": Kind("warning",
        "The prompt gives the answer away: the model would learn to copy, and scores would show nothing else.",
        "remove it from the column, or the column from template.prompt"),
    "placeholder_answers": Kind("warning", "They stand for a value that is missing, and would be learned.",
        "remove these rows"),
    "url_only": Kind("warning", "A row that is nothing but a link teaches nothing but links.",
        "replace the links by what they lead to"),
    "markup": Kind("warning", "Tags and entities would be learned as text.",
        "remove the markup from the data"),
    "mojibake": Kind("warning", "The text was decoded wrongly once, and the model would learn to write so.",
        "save the file anew as UTF-8"),
    "control_characters": Kind("note", "They come of binary data, or of files joined together; they were removed.",
        "look at these rows (data.cleaning.control_characters: false keeps them)"),
    "very_long_rows": Kind("warning",
        "A row far longer than all others is often a file read as one row, or a quote that is never closed.",
        "look at these rows"),
    "many_duplicates": Kind("note",
        "Repeated rows were dropped; so many of them can mean that files were joined twice.",
        "see the files (data.cleaning.duplicates: false keeps them)"),
    "near_duplicates": Kind("note", "Rows that say nearly the same are learned by heart sooner than the others.",
        "keep one of each"),
    "other_language": Kind("warning", "The model would answer in that language at times.",
        "remove these rows, or move them to a recipe of their own"),
    # Labels.
    "one_label": Kind("error", "There is nothing to tell apart.",
        "check data.columns: {label: YOUR_COLUMN}"),
    "rare_labels": Kind("warning", "A label with so few rows is not learned, and cannot be scored.",
        "add rows, or join it with another label"),
    "unbalanced_labels": Kind("warning", "A model that always gives the most frequent label would look good.",
        "classification.class_weights: balanced"),
    "similar_labels": Kind("warning", "Labels that differ in case or spaces alone are learned as different ones.",
        "write them in one way"),
    "contradicting_labels": Kind("warning", "One text with several labels cannot be learned.",
        "decide on one label for each text"),
    "labels_not_in_train": Kind("error", "The model cannot give a label that it has not seen.",
        "add rows with it to train, or mend the label"),
    # Splits.
    "held_out_in_train": Kind("warning", "Scores on them show memory, not learning.",
        "remove them from one of the two"),
    "held_out_near_train": Kind("warning", "Scores on them show memory more than learning.",
        "remove them from one of the two"),
    "held_out_in_another_language": Kind("warning", "Scores would be of what the model has not learned.",
        "give the right files to data.train and data.test"),
    # Settings.
    "learning_rate_high": Kind("warning", "Training at such a rate mostly diverges.",
        "training.learning_rate (usual: 1e-5 to 1e-3)"),
    "learning_rate_low": Kind("warning", "The weights would hardly move.",
        "training.learning_rate (usual: 1e-5 to 1e-3)"),
    "warmup_too_long": Kind("warning", "The learning rate never reaches what the recipe says.",
        "training.warmup_steps (a share such as 0.05 fits any length)"),
    "few_steps": Kind("warning", "So few updates hardly change a model.",
        "training.num_train_epochs, or a smaller training.per_device_train_batch_size"),
    "batch_beyond_data": Kind("warning", "A step takes more rows than there are, so an epoch is one small step.",
        "training.per_device_train_batch_size"),
    "never_evaluated": Kind("warning", "Training ends before the first evaluation.",
        "training.eval_steps, or eval_strategy: epoch"),
    "much_padding": Kind("warning", "This part of the computation is spent on padding.",
        "training.train_sampling_strategy: group_by_length"),
    "memory_too_small": Kind("warning", "Training would be killed at its longest batch.",
        "training.per_device_train_batch_size (with gradient_accumulation_steps), or activation_checkpointing: true"),
    "disk_too_small": Kind("warning", "Checkpoints could not be written.",
        "training.save_total_limit, or save_only_model: true"),
}  # fmt: skip
