"""The decoders of the methods that come with the library, and what their layers share."""
