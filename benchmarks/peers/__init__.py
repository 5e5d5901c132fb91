"""What others do for the same task, written for comparison; each is a process of its own."""
