"""The bundled checkpoint `pocket`: how it is built, trained, exported and checked. Not part of the wheel."""
