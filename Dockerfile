# docker build -t relif . && docker run --rm -v "$PWD/_build:/relif/_build" relif
FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends make git chromium fonts-dejavu-core \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /relif
COPY . .
RUN make environment
CMD ["make", "book"]
