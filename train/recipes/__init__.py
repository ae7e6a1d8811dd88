"""The recipes of pre-training, one readable YAML each."""
