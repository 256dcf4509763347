"""What several test files share: one file for each thing that it makes."""
