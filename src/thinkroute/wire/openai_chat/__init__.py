"""OpenAI Chat Completions: `inbound` faces the caller, `outbound` faces an upstream that speaks the same dialect."""
