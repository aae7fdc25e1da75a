"""From a config to a run: reading, checking, adapting to the machine, building."""
