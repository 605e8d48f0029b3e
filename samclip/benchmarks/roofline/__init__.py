"""How much work graphs are, how fast this machine could do it, and how near it comes."""
