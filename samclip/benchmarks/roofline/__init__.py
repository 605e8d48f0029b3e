"""The work of graphs, the rates of this machine, and how near runs come to these."""
