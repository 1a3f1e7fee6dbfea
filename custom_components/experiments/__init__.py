"""What is compared with what: the paper's set-ups as runs of the universal bundle, how they are run, the page of results."""
