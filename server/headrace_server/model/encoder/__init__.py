"""Models that read a whole text at once and give one vector for it: BERT and its family."""
