"""The prompts of zero-shot classification, one readable YAML per dataset."""
