"""What is measured, a file each. Every measure takes the field and yields rows; the sizes are `Effort`'s."""
