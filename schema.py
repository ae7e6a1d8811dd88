"""The Parquet tables that the stages hand each other: columns, types and meanings, in order."""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = 1
ROW_GROUP = 65_536  # rows a Parquet row group; other sizes change the bytes of a table


@dataclass(frozen=True, kw_only=True)
class Field:
    """One column: its name, its type (`type?` may be null), and its meaning."""

    name: str
    type: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A Parquet table of the contract: its fields in order."""

    name: str
    fields: tuple[Field, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(field.name for field in self.fields)


def _table(name: str, *rows: tuple[str, str, str]) -> Table:
    return Table(name=name, fields=tuple(Field(name=n, type=t, text=d) for n, t, d in rows))


MANIFEST = _table(
    "manifest",
    ("key", "string", "image id with characters outside [A-Za-z0-9_-] replaced by '-'; unique"),
    ("dataset", "string", "name of the archive"),
    ("subject_id", "string?", "patient, null when the archive does not tell"),
    ("study_id", "string?", "study, null when the archive does not tell"),
    ("image_id", "string", "the archive's own id of the image"),
    ("view", "string?", "AP, PA, LATERAL, … or null"),
    ("view_source", "string", "origin of the view: metadata, procedure, table, header, none"),
    ("split", "string", "train, validate or test"),
    ("image", "string", "path of the PNG below the prepared set"),
    ("height", "int32", "rows of the PNG"),
    ("width", "int32", "columns of the PNG"),
    ("bits", "int32", "bits a pixel of the PNG, 8 or 16"),
    ("source", "string", "path of the original below the archive"),
    ("source_height", "int32", "rows of the original, after orientation"),
    ("source_width", "int32", "columns of the original, after orientation"),
    ("orientation", "int32", "EXIF orientation 1-8, applied first; 1 for DICOM"),
    ("scale_x", "float64", "x_out = x_src * scale_x + offset_x"),
    ("scale_y", "float64", "y_out = y_src * scale_y + offset_y"),
    ("offset_x", "float64", "padding on the left in output pixels; negative is a crop"),
    ("offset_y", "float64", "padding on top in output pixels; negative is a crop"),
    ("norm", "string", "how grey levels were made: mimic, window, minmax, dicom, none"),
    ("png_blake3", "string", "BLAKE3 of the PNG file, hex"),
    ("pixel_blake3", "string", "BLAKE3 of the decoded pixels in row order, hex"),
    ("findings", "string", "Findings; empty when absent"),
    ("impression", "string", "Impression; empty when absent"),
    ("sections", "map<string,string>", "every section by name, raw text"),
    ("sentences", "map<string,list<string>>", "sentences of findings and impression"),
    ("section_source", "string", "header, combined, last_paragraph, override or none"),
    ("labels", "map<string,float64>", "1 present, 0 absent, -1 uncertain; missing = unlabelled"),
    ("label_source", "string?", "who made the labels, null without labels"),
    ("boxes", "list<box>", "x, y, w, h, label in output pixels"),
    ("mask", "string?", "path of the mask PNG below the prepared set"),
    ("mask_blake3", "string?", "BLAKE3 of the mask PNG, hex"),
    ("report_labels", "map<string,float64>", "findings that rules read in the report's text"),
    (
        "metadata",
        "map<string,string>",
        "sex (F, M), age (years), origin, where told; also: train, where a protocol leaks; "
        "5x200: the one finding of a film of CheXpert 5x200",
    ),
)

REJECTS = _table(
    "rejects",
    ("source", "string", "path of the original below the archive"),
    ("image_id", "string?", "the archive's own id of the image"),
    ("study_id", "string?", "study, where known"),
    ("stage", "string", "where it was rejected: archive, reports, pixels, shard"),
    ("reason", "string", "reason code"),
    ("detail", "string", "more, without patient data"),
)

SOURCES = _table(
    "sources",
    ("source", "string", "path of the original below the archive"),
    ("image_id", "string?", "the archive's own id of the image"),
    ("image", "string?", "path of the PNG made of it, null when it was rejected"),
    ("work", "string", "hash of what its picture and texts were made from, by which a run goes on"),
)

SECTIONS = _table(
    "sections",
    ("report_id", "string", "file name without ending, or the table's id"),
    ("findings", "string", "Findings; empty when absent"),
    ("impression", "string", "Impression; empty when absent"),
    ("sections", "map<string,string>", "every section by name, raw text"),
    ("spans", "map<string,list<int32>>", "start, end, start, end … of each section's text"),
    ("section_source", "string", "header, combined, last_paragraph, override or none"),
    ("report_labels", "map<string,float64>", "findings that rules read in the report's text"),
)

SHARD_MANIFEST = _table(
    "shard_manifest",
    ("ordinal", "uint32", "position of the sample in the dataset"),
    ("key", "string", "key of the sample, the member names' stem"),
    ("dataset", "string", "name of the archive"),
    ("split", "string", "train, validate or test"),
    ("shard", "string", "file name of the shard"),
    ("offset", "uint64", "first byte of the sample's span in the shard"),
    ("size", "uint32", "bytes of the span"),
    ("codec", "string", "ending of the picture: png, or jpg for a JPEG of quality 95"),
    ("json_off", "uint32", "first byte of the JSON, relative to offset"),
    ("json_len", "uint32", "bytes of the JSON"),
    ("png_off", "uint32", "first byte of the picture, relative to offset"),
    ("png_len", "uint32", "bytes of the picture"),
    ("mask_off", "uint32?", "first byte of the mask, relative to offset"),
    ("mask_len", "uint32?", "bytes of the mask"),
    ("json_blake3", "binary16", "first 16 bytes of the JSON's BLAKE3"),
    ("png_blake3", "binary16", "first 16 bytes of the picture's BLAKE3"),
    ("mask_blake3", "binary16?", "first 16 bytes of the mask's BLAKE3"),
    ("pixel_blake3", "binary16", "first 16 bytes of the decoded pixels' BLAKE3"),
    ("width", "uint16", "columns"),
    ("height", "uint16", "rows"),
    ("bits", "uint8", "bits a pixel"),
    ("subject_id", "string?", "patient"),
    ("study_id", "string?", "study"),
    ("view", "string?", "AP, PA, LATERAL, … or null"),
    ("source", "string", "path of the original below the archive"),
    ("n_findings", "uint16", "words of the Findings"),
    ("n_impression", "uint16", "words of the Impression"),
    ("weight", "float32", "sampling weight, 1 by default"),
    ("labels", "map<string,float64>", "1 present, 0 absent, -1 uncertain"),
)

SHARDS = _table(
    "shards",
    ("name", "string", "file name of the shard"),
    ("split", "string", "train, validate or test"),
    ("bytes", "uint64", "size of the file"),
    ("n_samples", "uint32", "samples in it"),
    ("blake3", "string", "BLAKE3 of the file, hex"),
    ("sha256", "string", "SHA-256 of the file, hex"),
)

_CELL = (
    ("encoder", "string", "run, encoder file stem, or a control: `random`, `no-pixels`"),
    ("task", "string", "name of the task, such as zeroshot or linear"),
    ("protocol", "string", "protocol of the evaluation"),
    ("fraction", "float64", "share of the training labels"),
    ("draw", "int32", "which draw of that share"),
    ("head_seed", "int32", "seed of the head's initial weights"),
)

PREDICTIONS = _table(
    "predictions",
    ("key", "string", "key of the sample"),
    ("subject_id", "string?", "patient, null when the archive does not tell"),
    ("label", "string", "name of the label"),
    ("target", "float64", "1 or 0"),
    ("score", "float64", "the encoder's score; larger means present"),
    *_CELL,
)

REGIONS = _table(
    "regions",
    ("key", "string", "key of the sample"),
    ("subject_id", "string?", "patient, null when the archive does not tell"),
    ("label", "string", "what is marked"),
    ("threshold_source", "string", "where the threshold was chosen"),
    ("threshold", "float64", "probability, or margin, from which a pixel is predicted"),
    ("batch", "int32", "batch of the test split that the sample was in"),
    ("height", "int32", "rows of the pictures that were measured"),
    ("width", "int32", "columns of the pictures that were measured"),
    ("target_pixels", "int32", "pixels of the region"),
    ("predicted_pixels", "int32", "pixels of the predicted region"),
    ("common_pixels", "int32", "pixels of both"),
    ("peak", "string?", "the highest place: centre or part in the region, or outside; else null"),
    ("runs", "string", "predicted region: pairs of offset and length, down the columns"),
    *_CELL,
)

DETECTIONS = _table(
    "detections",
    ("key", "string", "key of the sample"),
    ("subject_id", "string?", "patient, null when the archive does not tell"),
    ("targets", "list<box>", "boxes of the archive in pixels of the prepared picture"),
    ("predicted", "list<box>", "predicted boxes in the same pixels, by label, the best first"),
    ("scores", "list<float64>", "objectness of each predicted box"),
    *_CELL,
)

RETRIEVALS = _table(
    "retrievals",
    ("key", "string", "key of the sample"),
    ("subject_id", "string?", "patient, null when the archive does not tell"),
    ("direction", "string", "image-to-text, or text-to-image"),
    ("finding", "string?", "the one finding of a film of 5x200, else null"),
    ("above", "int32", "candidates nearer than its own"),
    ("level", "int32", "candidates as near as its own, itself included"),
    ("equal", "int32", "candidates whose text is equal to the letter, its own included"),
    ("same", "int32", "candidates of the same text, its own included"),
    ("before", "int32", "candidates of another text before the nearest of the same"),
    ("same_share", "list<float64>", "share of the same text among the first 5, 10, 100"),
    ("finding_share", "list<float64>", "share of the same finding there; empty without findings"),
    ("nearest", "list<string>", "keys of the first candidates, one of each distinct text or film"),
    *_CELL,
)

RESULTS = _table(
    "results",
    ("dataset", "string", "prepared set that was evaluated"),
    ("task", "string", "name of the task, such as zeroshot or linear"),
    ("protocol", "string", "protocol of the evaluation"),
    ("encoder", "string", "run, encoder file stem, or a control: `random`, `no-pixels`"),
    ("run_digest", "string", "digest of the encoder's weights"),
    ("pretrain_seed", "int32?", "seed of the pre-training, null for foreign weights"),
    ("fraction", "float64", "share of the training labels"),
    ("draw", "int32", "which draw of that share"),
    ("head_seed", "int32", "seed of the head's initial weights"),
    ("metric", "string", "name of the number, such as auroc or sensitivity@90"),
    ("threshold_source", "string?", "where the threshold was chosen; null without a threshold"),
    ("label", "string", "name of the label, or `macro` for the mean"),
    ("value", "float64?", "the number; null when the label has too few positives or negatives"),
    ("ci_low", "float64?", "lower end of the 95 % interval"),
    ("ci_high", "float64?", "upper end of the 95 % interval"),
    ("ci_method", "string", "how the interval was made"),
    ("n", "int32", "samples"),
    ("n_pos", "int32?", "positives; null for macro"),
    ("n_subjects", "int32?", "subjects; null when the archive does not tell"),
)

SAMPLES = _table(
    "samples",
    ("key", "string", "key of a sample of the test split"),
    ("view", "string?", "AP, PA, … or null"),
    ("sex", "string?", "F or M, null where the archive does not tell"),
    ("age", "float64?", "years"),
    ("origin", "string?", "the collection that the film comes from"),
    ("height", "int32?", "rows of the original"),
    ("width", "int32?", "columns of the original"),
)

_PLACE = (
    ("dataset", "string", "prepared set that was evaluated"),
    ("task", "string", "task of the evaluation"),
    ("protocol", "string", "protocol of the evaluation"),
    ("fraction", "float64", "share of the training labels"),
)

SUMMARY = _table(
    "summary",
    *_PLACE,
    ("encoder", "string", "run, encoder file stem, or the name of a control"),
    ("metric", "string", "name of the number"),
    ("label", "string", "`macro`: the mean over labels"),
    ("value", "float64?", "mean over draws and seeds"),
    ("sd", "float64?", "standard deviation over draws and seeds"),
    ("ci_low", "float64?", "lower end of the 95 % interval"),
    ("ci_high", "float64?", "upper end of the 95 % interval"),
    ("ci_method", "string", "how the interval was made"),
    ("repeats", "int32", "draws times seeds that have the number"),
)

SLICES = _table(
    "slices",
    *_PLACE,
    ("encoder", "string", "run or encoder file stem"),
    ("draw", "int32", "which draw of that share"),
    ("head_seed", "int32", "seed of the head's initial weights"),
    ("property", "string", "view, sex, age or origin"),
    ("slice", "string", "its value, such as AP, F or 40-59"),
    ("metric", "string", "auroc"),
    ("label", "string", "name of the label, or `macro` for the labels that all slices share"),
    ("value", "float64?", "the number"),
    ("ci_low", "float64?", "lower end of the 95 % interval"),
    ("ci_high", "float64?", "upper end of the 95 % interval"),
    ("ci_method", "string", "how the interval was made"),
    ("n", "int32", "samples"),
    ("n_pos", "int32?", "positives; null for macro"),
    ("n_subjects", "int32?", "subjects; null when the archive does not tell"),
)

COMPARISONS = _table(
    "comparisons",
    *_PLACE,
    ("encoder", "string", "run, encoder file stem, or the name of a control"),
    ("other", "string", "the encoder that it is compared with"),
    ("metric", "string", "auroc, dice, map or r@5"),
    ("label", "string", "`macro`: the mean over the labels that all encoders answered"),
    ("labels", "int32", "number of these labels, in any draw"),
    ("difference", "float64?", "value of `encoder` less that of `other`"),
    ("ci_low", "float64?", "lower end of the paired 95 % interval"),
    ("ci_high", "float64?", "upper end of the paired 95 % interval"),
    ("ci_method", "string", "how the interval was made"),
    ("sd", "float64?", "standard deviation of the difference over replicates"),
    ("p", "float64?", "two-sided, not corrected"),
    ("p_holm", "float64?", "the same, corrected over all comparisons of the table"),
    ("smallest", "float64?", "difference that this test set shows with a power of 80 %"),
    ("n", "int32", "samples"),
    ("n_subjects", "int32?", "subjects; null when the archive does not tell"),
)

TABLES = (
    *(MANIFEST, REJECTS, SOURCES, SECTIONS, SHARD_MANIFEST, SHARDS),
    *(PREDICTIONS, REGIONS, DETECTIONS, RETRIEVALS),
    *(RESULTS, SAMPLES, SUMMARY, SLICES, COMPARISONS),
)
