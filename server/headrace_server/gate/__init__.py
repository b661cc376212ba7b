"""What a model has to go through before it is released, and the record that it did."""
