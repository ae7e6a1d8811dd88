"""What evaluations have found, on disk: finished cells, and tables as papers print them."""
