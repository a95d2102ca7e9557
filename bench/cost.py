"""What a loss costs beside the step that it is part of: ``python bench/cost.py``; see --help.

A step is the student's forward and backward pass and AdamW's update; the loss's share is its own forward and backward
pass on logits of that batch. Medians, one process, on the CPU with the threads given.
"""

import argparse

import torch

from linnet import methods
from linnet.config import Config
from linnet.methods import Context
from linnet.step import Batch, Progress, StudentOutput, TeacherOutput
from linnet.students.student import Student
from linnet.teachers.base import ClassHead, Teacher
from linnet.text.classes import class_table
from linnet.timing import median_ms


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    count = arguments.batch_size
    classes = class_table([str(c) for c in range(arguments.classes)])
    student = Student(arguments.student, classes, arguments.image_size).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(student.parameters())
    images = torch.rand(count, 3, arguments.image_size, arguments.image_size)
    labels, teacher_BC = torch.randint(len(classes), (count,)), torch.randn(count, len(classes))
    batch = Batch(torch.arange(count), 0, images, labels, TeacherOutput(teacher_BC))

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(student(images).logits_BC, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    whole = median_ms(step, 20)
    shown = f"{arguments.student}, {arguments.image_size} pixels, batch {count}, {len(classes)} classes"
    print(f"{shown}: {whole:.1f} ms a step")
    for row in arguments.rows:
        id, *options = row.split(",")
        given = {id: dict(option.split("=") for option in options)}
        method = methods.build(id, methods.check_options(id, given))
        frozen = Teacher("none", torch.nn.Identity(), lambda image: torch.zeros(3, 8, 8), "")
        frozen.kind = "classifier"  # type: ignore[misc]
        head = ClassHead(weights_CD=torch.randn(len(classes), 64))
        method.prepare(Context(Config(), classes, student.width, frozen, head))
        features_BD = torch.zeros(count, student.width)

        def alone(method: methods.Method = method, features_BD: torch.Tensor = features_BD) -> None:
            output = StudentOutput(features_BD, torch.randn(count, len(classes), requires_grad=True))
            terms = method(batch, output, Progress(1, 2))
            torch.stack([term for name, term in terms.items() if name != "ce"]).sum().backward()

        cost = median_ms(alone, 200)
        print(f"{row:<32} {cost:6.3f} ms, {100 * cost / whole:.2f} % of a step")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = ["kd", "dkd", "dist", "figkd", "figkd,levels=3,wavelet=sym8", "figkd,metric=kl"]
    parser.add_argument("--rows", nargs="+", default=rows, help="a method id, with options after commas")
    parser.add_argument("--student", default="resnet10t")
    parser.add_argument("--classes", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    main(parser.parse_args())
