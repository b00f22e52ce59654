"""What a pull request to EasyEdit would contain, made from our own files; see ``__main__``."""
