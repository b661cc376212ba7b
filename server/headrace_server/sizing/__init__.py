"""How many replicas a recorded load needs, from arithmetic alone. Pure: no torch, no clock, no network."""
