//! Keys of a configuration that cannot change the numbers of a forward pass.

use crate::spec::Family;

/// Whether a key may hold anything.
pub(super) fn is_harmless(key: &str, family: Family) -> bool {
    ANY.contains(&key) || of(family).contains(&key)
}

/// Keys that cannot change the numbers of a forward pass, whatever the family.
const ANY: &[&str] = &[
    // Bookkeeping.
    "_name_or_path",
    "_model_name_or_path",
    "name_or_path",
    "_commit_hash",
    "architectures",
    "auto_map",
    "custom_pipelines",
    "tokenizer_class",
    "transformers_version",
    "transformers.js_config",
    "unsloth_fixed",
    "unsloth_version",
    // How weights are held or computed elsewhere; here they are read as stored and computed in f32.
    "torch_dtype",
    "dtype",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_experts_implementation_internal",
    "_flash_attn_2_enabled",
    "attn_implementation",
    "gradient_checkpointing",
    "pretraining_tp",
    "torchscript",
    "use_bfloat16",
    "use_cache",
    // What a Python call returns.
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "return_dict",
    "return_dict_in_generate",
    "use_return_dict",
    "tie_last_hidden_states",
    "chunk_size_feed_forward",
    // Training.
    "initializer_range",
    "init_std",
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "dropout",
    "activation_dropout",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "layerdrop",
    // Classification heads.
    "finetuning_task",
    "id2label",
    "label2id",
    "num_labels",
    "_num_labels",
    "predict_special_tokens",
    "problem_type",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    // Ids, lengths and texts that only a tokenizer or a pipeline uses.
    "bos_token",
    "eos_token",
    "max_sequence_length",
    "model_max_length",
    "pad_token",
    "seq_length",
    "decoder_start_token_id",
    "pad_token_id",
    "unk_token_id",
    "sep_token_id",
    "prefix",
    // Generation.
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "remove_invalid_values",
    "repetition_penalty",
    "suppress_tokens",
    "temperature",
    "tf_legacy_loss",
    "top_k",
    "top_p",
    "typical_p",
];

/// Keys that cannot change the numbers of one family.
fn of(family: Family) -> &'static [&'static str] {
    match family {
        Family::Refocus => &[],
        // `n_ctx` repeats `n_positions`; nothing reads it.
        Family::Gpt2 | Family::GptJ => &["n_ctx"],
        // Only a warning depends on it.
        Family::NeoX => &["is_decoder"],
        Family::Llama => &["is_llama_config"],
        Family::Opt | Family::Mistral | Family::Qwen2 | Family::Qwen3 => &[],
    }
}
