"""Two models beside each other on texts whose words are known to be good."""
