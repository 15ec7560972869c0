"""One run of a method: its steps and epochs, its checkpoint, and what its record keeps."""
