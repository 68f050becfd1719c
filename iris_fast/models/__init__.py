"""The three models of the agent: tokenizer, world model, actor-critic."""
