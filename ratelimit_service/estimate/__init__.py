"""What a request may come to cost, guessed before it runs: by what it asks for, and by how long answers usually are."""
