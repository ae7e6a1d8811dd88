"""How each protocol trains and measures: one readable YAML a protocol, and its reader."""
