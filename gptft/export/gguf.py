"""Format gguf: one file for llama.cpp and what builds on it, tokenizer and chat template inside."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch

from gptft.errors import GptftError, UserError
from gptft.export.base import Format, Reader
from gptft.models.loading import LoadedModel
from gptft.models.logits import text_logits

FILE = "model.gguf"
NEEDED = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
}
"""What llama.cpp's GPT-2 computes."""
PRE_TOKENIZER = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


class Gguf(Format):
    """GPT-2's architecture and tokenizer, tensor for tensor as llama.cpp's own converter writes them."""

    name: ClassVar[str] = "gguf"
    extra: ClassVar[str] = "gguf"
    packages: ClassVar[tuple[str, ...]] = ("gguf",)
    quantizations: ClassVar[tuple[str, ...]] = ("f16", "q8_0")

    def check_model(self, loaded: LoadedModel) -> None:
        """Refuse what llama.cpp's GPT-2 does not compute, and tokenizers that are not of GPT-2's kind."""
        super().check_model(loaded)
        own = {key: getattr(loaded.model.config, key, None) for key in NEEDED}
        if wrong := [f"{key}: {value}" for key, value in own.items() if value not in NEEDED[key]]:
            raise UserError(
                f"--to {self.name} writes GPT-2's architecture, and this model has {', '.join(wrong)}. For others: "
                "gptft export --to merged, then llama.cpp's convert_hf_to_gguf.py on that folder."
            )
        parts = _tokenizer_parts(loaded.tokenizer)
        kind = (parts["model"]["type"], parts["pre_tokenizer"], parts["normalizer"])
        if kind != ("BPE", PRE_TOKENIZER, None) or not parts["model"]["merges"]:
            raise UserError(
                f"--to {self.name} writes tokenizers of GPT-2's kind: byte-level BPE with merges, GPT-2's "
                "pre-tokenizer, no normalizer. This model's is another."
            )

    def write(self, loaded: LoadedModel, folder: Path, quantization: str) -> None:
        """Write model.gguf. Vectors and positions stay float32; rows that q8_0 cannot divide by 32 are f16."""
        import gguf
        from transformers.pytorch_utils import Conv1D

        model, config, kinds = loaded.model, loaded.model.config, gguf.GGMLQuantizationType
        writer = gguf.GGUFWriter(folder / FILE, "gpt2")
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{quantization.upper()}"])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_context_length(loaded.positions)
        writer.add_embedding_length(config.n_embd)
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_block_count(config.n_layer)
        writer.add_head_count(config.n_head)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        _add_tokenizer(writer, loaded)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config.n_layer)
        # GPT-2 keeps these as (in, out), where every other layer and this format have (out, in).
        transposed = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
        # A head that shares its weight with the embeddings is not among the parameters; llama.cpp shares it too.
        for name, weight in model.named_parameters():
            values = (weight.T if name in transposed else weight).detach().float().contiguous().numpy()
            target = names.get_name(name, (".weight", ".bias")) or name
            kind = kinds[quantization.upper()]
            if values.ndim == 1 or target == "position_embd.weight":
                kind = kinds.F32
            elif values.shape[1] % gguf.GGML_QUANT_SIZES[kind][0]:
                kind = kinds.F16
            writer.add_tensor(target, gguf.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def reader(self, loaded: LoadedModel, folder: Path) -> tuple[str, Reader]:
        """llama.cpp where llama-cpp-python is installed, else transformers, which reads GGUF too.

        Reading raises a GptftError where llama.cpp splits a text into other tokens.
        """
        if find_spec("llama_cpp") is None:
            from transformers import AutoModelForCausalLM

            options: dict[str, Any] = {"gguf_file": FILE, "config": loaded.model.config, "dtype": torch.float32}
            model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
            return "transformers", lambda ids: text_logits(model, ids)
        from llama_cpp import Llama  # pyright: ignore[reportMissingImports] - compiled where it is installed

        llama = Llama(str(folder / FILE), n_ctx=loaded.positions, logits_all=True, verbose=False)

        def read(ids: Any) -> torch.Tensor:
            text = loaded.tokenizer.decode(ids)
            expected = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
            if (found := llama.tokenize(text.encode(), add_bos=True, special=True)) != expected:
                raise GptftError(f"llama.cpp reads {text!r} as the tokens {found}, not as {expected}.")
            llama.reset()
            llama.eval(list(ids))
            return torch.from_numpy(llama.scores[: len(ids)].copy())

        return "llama-cpp-python", read


def _tokenizer_parts(tokenizer: Any) -> dict[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str())


def _add_tokenizer(writer: Any, loaded: LoadedModel) -> None:
    from gguf import TokenType

    tokenizer, rows = loaded.tokenizer, loaded.model.get_input_embeddings().weight.shape[0]
    names = {token: name for name, token in tokenizer.get_vocab().items()}
    kinds = [TokenType.NORMAL if token in names else TokenType.UNUSED for token in range(rows)]
    for token, added in tokenizer.added_tokens_decoder.items():
        kinds[token] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    merges = _tokenizer_parts(tokenizer)["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([names.get(token, f"[PAD{token}]") for token in range(rows)])
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    # A prompt begins as in training: with nothing before it.
    writer.add_add_bos_token(False)
    # Other Jinja engines do not know the marks of what is supervised; a comment keeps what they do to spaces.
    template = re.sub(r"\{%(-?)\s*(?:end)?generation\s*(-?)%\}", r"{#\1 \2#}", tokenizer.get_chat_template())
    writer.add_chat_template(template)
