"""Scheduling: who runs in the next step. Pure but for the loop; knows no torch and no protocol."""
