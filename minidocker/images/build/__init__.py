"""Chapter 5: building images: a Dockerfile is read (dockerfile) and executed (executor); COPY and ADD (copy)."""
