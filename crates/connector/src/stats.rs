//! What a half counts, for vLLM's connector statistics.
