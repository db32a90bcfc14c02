"""What is behind the verbs of ``cellfm``, except training, and what they all share."""
