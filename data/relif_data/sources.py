"""The registry of data sources: title, licence, page, access, expected size, checksums, citation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

OutputPolicy = Literal["person", "aggregate"]


@dataclass(frozen=True)
class SourceFile:
    """A file of a source: name below its folder, bytes, sha256 and data rows, each None where not known.

    ``copy`` says whose copy the size and checksum describe: other packings of the same data have other ones.
    """

    name: str
    bytes: int | None
    sha256: str | None
    rows: int | None
    copy: str


@dataclass(frozen=True)
class Source:
    """One data source.

    Attributes:
        output_policy: "person" where per-person model output may be published, "aggregate" where only
            aggregates.
        module: Its ``prepare`` turns the source into tensors.
        expected: Size of the whole source.
    """

    name: str
    title: str
    licence: str
    official_page: str
    access: str
    expected: str
    output_policy: OutputPolicy
    citation: str
    module: str
    files: tuple[SourceFile, ...] = ()
    synthetic: bool = False


_COPY = "this project's repacked copy; no checksum is published for the official files"
_MIMIC_DEMO = "this project's copy of the demo 1.4"
_EICU_DEMO = "this project's copy of the demo 2.0"
_EICU_HOURLY = "hourly layout of the demo 2.0 in the YAIB repository"

_SOURCES = (
    Source(
        name="physionet2012",
        title="PhysioNet/Computing in Cardiology Challenge 2012",
        licence="Open Data Commons Attribution License 1.0 (as far as known; confirm on the official page)",
        official_page="https://physionet.org/content/challenge-2012/1.0.0/",
        access="open",
        expected="three sets of 4,000 stays; a and b: 1,757,980 and 1,762,535 rows, 554 and 568 deaths",
        output_policy="person",
        citation=(
            "Silva et al., Computing in Cardiology 39:245-248, 2012; "
            "Goldberger et al., Circulation 101(23):e215-e220, 2000"
        ),
        module="relif_data.physionet2012",
        files=(
            SourceFile(
                "set-a.tar.xz",
                4476040,
                "3dd2688fc25b840560b3320089396f3403e27c9807e1384f802662675737d2a4",
                1757980,
                _COPY,
            ),
            SourceFile(
                "Outcomes-a.txt",
                79219,
                "2613ea60ccda29f87571a7d6b09ad130858a8ccd66325bd073365925026883c2",
                4000,
                _COPY,
            ),
            SourceFile(
                "set-b.tar.xz",
                4498976,
                "ca3968db6f1fc631c6850c37f633e57d3c8141635f062f5e97868fab6ae62325",
                1762535,
                _COPY,
            ),
            SourceFile(
                "Outcomes-b.txt",
                79149,
                "1305f29734da374a809483229a99f33a9230aa8d4fa74b1a2d6ad788136423d5",
                4000,
                _COPY,
            ),
        ),
    ),
    Source(
        name="synthetic_icu",
        title="Simulated intensive care stays",
        licence="Apache-2.0 (made by this package; no patient data)",
        official_page="",
        access="made on the spot",
        expected="600 stays of at most 48 hours unless asked otherwise",
        output_policy="person",
        citation="",
        module="relif_data.synthetic_icu",
        synthetic=True,
    ),
    Source(
        name="mimic3",
        title="MIMIC-III Clinical Database",
        licence=(
            "PhysioNet Credentialed Health Data License (full database); Open Database License 1.0 (demo)"
        ),
        official_page="https://physionet.org/content/mimiciii/1.4/",
        access="credentialed; the demo (https://physionet.org/content/mimiciii-demo/1.4/) is open",
        expected=(
            "v1.4: 46,520 patients, 61,532 unit stays, 330,712,483 rows of CHARTEVENTS; "
            "demo: 100 patients, 136 unit stays, 758,355 rows of CHARTEVENTS"
        ),
        output_policy="aggregate",
        citation=(
            "Johnson et al., Scientific Data 3:160035, 2016; Harutyunyan et al., Scientific Data 6:96, 2019"
        ),
        module="relif_data.mimic3",
        files=(
            SourceFile(
                "PATIENTS.csv.gz",
                1856,
                "9877ab96628c94e063266972e6d83e98e656ebfff80957cee18958a2aff508f5",
                100,
                _MIMIC_DEMO,
            ),
            SourceFile(
                "ADMISSIONS.csv.gz",
                6900,
                "c924d886754d6f2d0897beb2908fd7d5d40ea3a1c002704c61530db8e5f85401",
                129,
                _MIMIC_DEMO,
            ),
            SourceFile(
                "ICUSTAYS.csv.gz",
                4857,
                "fe156176d508c6f1e8b87d4becdb9a55c17c94b4eccfe2d50f9f7fab83b311cb",
                136,
                _MIMIC_DEMO,
            ),
            SourceFile(
                "DIAGNOSES_ICD.csv.gz",
                12612,
                "7ad7f2ca1d666d874872adebaff0a95b65bcb375f154f008c4f98c182bfa7c77",
                1761,
                _MIMIC_DEMO,
            ),
            SourceFile(
                "D_ICD_DIAGNOSES.csv.gz",
                279624,
                "d7f4aedb4c8189efc754ed2fd473df0295c316a768a274092f091310bbbc4f1e",
                14567,
                _MIMIC_DEMO,
            ),
            SourceFile(
                "CHARTEVENTS.csv.gz",
                7535214,
                "79e580a93dbd757a2c04ec49cd467f4505cb0d3f068f0ae22ce1b64e0861116a",
                758355,
                _MIMIC_DEMO,
            ),
            SourceFile(
                "LABEVENTS.csv.gz",
                777399,
                "d33ab327a756f608270941c5c70b1f037842826a9cddc21a9b0593a4b8406d4f",
                76074,
                _MIMIC_DEMO,
            ),
            SourceFile(
                "OUTPUTEVENTS.csv.gz",
                126250,
                "4b0b70e4eece38ee1e0acc64a0d6257ab19049bd17f5796bdcc44a3c4bf4c18d",
                11320,
                _MIMIC_DEMO,
            ),
        ),
    ),
    Source(
        name="eicu",
        title="eICU Collaborative Research Database",
        licence=(
            "PhysioNet Credentialed Health Data License (full database); Open Database License 1.0 (demo)"
        ),
        official_page="https://physionet.org/content/eicu-crd/2.0/",
        access="credentialed; the demo (https://physionet.org/content/eicu-crd-demo/2.0/) is open",
        expected="v2.0: 200,859 unit stays; demo: 2,520 unit stays of 1,841 patients in 186 hospitals",
        output_policy="aggregate",
        citation=(
            "Pollard et al., Scientific Data 5:180178, 2018; van de Water et al., ICLR 2024 (hourly layout)"
        ),
        module="relif_data.eicu",
        files=(
            SourceFile(
                "tables/patient.csv.gz",
                132871,
                "cd9308409dffbd23f2d46639ed40d84ca4ec55bcb793b7a9840439b4ab97b263",
                2520,
                _EICU_DEMO,
            ),
            SourceFile(
                "tables/vitalAperiodic.csv.gz",
                2596569,
                "6b36c4982bc4c61d40f430566f0a398b8085c3dcb85ef93039c5063b51ee2127",
                274088,
                _EICU_DEMO,
            ),
            SourceFile(
                "tables/respiratoryCharting.csv.gz",
                1607544,
                "84dd7d2d4299e93fa91dce35817cf5a6618e15603ba1bcc27eb703f8cc1b5b6e",
                176089,
                _EICU_DEMO,
            ),
            SourceFile(
                "tables/apacheApsVar.csv.gz",
                66394,
                "b1e60573bb977a500e203b5c5548aaf703e376d8eb1f12b41aa78dae31ac5ccb",
                2205,
                _EICU_DEMO,
            ),
            SourceFile(
                "tables/physicalExam.csv.gz",
                777811,
                "2ffa877385350c1a0e3bfb8ec6dfc5b90f2820c6a6f10ad759b8bcb73a1ff818",
                84058,
                _EICU_DEMO,
            ),
            SourceFile(
                "hourly/los/dyn.parquet",
                1313278,
                "347e5058469581bbc03fc3715c02cad103b1420086021a1a44266b618204397c",
                None,
                _EICU_HOURLY,
            ),
            SourceFile(
                "hourly/los/outc.parquet",
                46371,
                "002956d9d597a67fbc98d122da204218488cb177da18e2668034168fec673dd2",
                None,
                _EICU_HOURLY,
            ),
            SourceFile(
                "hourly/los/sta.parquet",
                28953,
                "dfa01d72a78bafbeb363f9c7657cf895f9884ed46643ebfee810ca59e14bdfd5",
                None,
                _EICU_HOURLY,
            ),
            SourceFile(
                "hourly/mortality24/dyn.parquet",
                448554,
                "6f5d2f7f98e80f9e7b104021a01628902f8b5affa590fe1f06e2e9e968c4c9d2",
                None,
                _EICU_HOURLY,
            ),
            SourceFile(
                "hourly/mortality24/outc.parquet",
                9719,
                "d4c75c926dbfd11eb81a36077d60b498565515eca4f4a914903c2f4ecf3c848f",
                None,
                _EICU_HOURLY,
            ),
            SourceFile(
                "hourly/mortality24/sta.parquet",
                20161,
                "425a3c2e3893deded0050a8e69f3cabc2fddc5454be8d0bc682a08e644057fcd",
                None,
                _EICU_HOURLY,
            ),
        ),
    ),
    Source(
        name="nyuv2",
        title="NYU Depth Dataset V2, labelled part",
        licence="no explicit licence found: research use only",
        official_page="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
        access="public",
        expected="795 training and 654 test images with 13 classes and depth",
        output_policy="person",
        citation="Silberman, Hoiem, Kohli, Fergus, ECCV 2012; 13 classes: Couprie et al., ICLR 2013",
        module="relif_data.nyuv2",
    ),
    Source(
        name="synthetic_rooms",
        title="Rendered rooms",
        licence="Apache-2.0 (made by this package; no photographs)",
        official_page="",
        access="made on the spot",
        expected="as many images as asked for, with 13 classes, depth and normals",
        output_policy="person",
        citation="",
        module="relif_data.synthetic_rooms",
        synthetic=True,
    ),
)

REGISTRY: Mapping[str, Source] = {source.name: source for source in _SOURCES}
